"""One tracker per camera: which box is whom, from frame to frame."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import supervision as sv
from pydantic import Field
from trackers import ByteTrackTracker

from pipeline.yolo import Detections
from providers.base import Box, Detection
from providers.settings import Section

_LIBRARY_FPS = 30.0
"""`trackers` counts its buffer of lost tracks in frames of 30 fps, whatever the camera's rate."""


class TrackerSettings(Section):
    start_confidence: float = Field(0.7, gt=0, lt=1, description="A new object must be seen this surely once")
    keep_confidence: float = Field(0.6, gt=0, lt=1, description="Boxes below only continue an object already known")
    confirm_frames: int = Field(3, ge=1, le=100, description="Frames in a row before an object counts")
    lost_s: float = Field(2.0, gt=0, le=60, description="Unseen for this long, an object has left")
    min_iou: float = Field(0.1, gt=0, lt=1, description="Least overlap of an object from one frame to the next")


@dataclass(slots=True)
class Track:
    """One object that is being followed. Times ending in `_s` are seconds on the camera's stream clock.

    `label` is what most of its frames called it. Identities are unique for the life of the tracker.
    """

    id: int
    label: str
    first_seen_s: float
    last_seen_s: float
    last_active_s: float
    box: Box
    confidence: float
    votes: dict[str, int] = field(default_factory=dict)

    def saw(self, label: str, box: Box, confidence: float, stream_s: float, active_s: float) -> None:
        self.votes[label] = self.votes.get(label, 0) + 1
        self.label = max(self.votes, key=self.votes.__getitem__)
        self.box, self.confidence = box, confidence
        self.last_seen_s, self.last_active_s = stream_s, active_s

    def as_detection(self) -> Detection:
        return Detection(self.label, self.confidence, self.box, self.id)


@dataclass(frozen=True, slots=True)
class Tracked:
    """One frame's view: who is seen now, who is new, and who has been unseen for lost_s."""

    seen: tuple[Track, ...]
    appeared: tuple[Track, ...]
    left: tuple[Track, ...]


class Tracker:
    """ByteTrack over one camera's detections; reset it when the picture changes its size or the stream breaks."""

    def __init__(self, settings: TrackerSettings, frame_rate: float) -> None:
        self._settings = settings
        self._bytetrack = ByteTrackTracker(
            lost_track_buffer=max(1, round(settings.lost_s * _LIBRARY_FPS)),
            frame_rate=frame_rate,
            track_activation_threshold=settings.start_confidence,
            high_conf_det_threshold=settings.keep_confidence,
            minimum_consecutive_frames=settings.confirm_frames,
            minimum_iou_threshold=settings.min_iou,
        )
        self._tracks: dict[int, Track] = {}
        self._first_id = 0
        self._next_id = 0

    @property
    def tracks(self) -> tuple[Track, ...]:
        """Everyone who is here or was until less than lost_s ago."""
        return tuple(self._tracks.values())

    def update(self, detections: Detections, width: int, height: int, stream_s: float, active_s: float) -> Tracked:
        """Follow one more frame.

        `width` and `height` in px: the motion model thinks in pixels. `active_s` is the stream's clock without
        the spans in which the picture stood still: nobody gets lost in those.
        """
        found = self._associate(detections, width, height, active_s)
        seen: list[Track] = []
        appeared: list[Track] = []
        for index in np.flatnonzero(found.tracker_id >= 0):
            track_id = self._first_id + int(found.tracker_id[index])
            label = detections.labels[found.class_id[index]]
            corners = found.xyxy[index] / (width, height, width, height)
            box, confidence = Box(*(round(float(side), 4) for side in corners)), round(float(found.confidence[index]), 4)
            if (track := self._tracks.get(track_id)) is None:
                track = self._tracks[track_id] = Track(track_id, label, stream_s, stream_s, active_s, box, confidence)
                self._next_id = max(self._next_id, track_id + 1)
                appeared.append(track)
            track.saw(label, box, confidence, stream_s, active_s)
            seen.append(track)
        return Tracked(tuple(seen), tuple(appeared), self._drop_lost(active_s))

    def reset(self) -> tuple[Track, ...]:
        """Forget everyone, and say whom; for a stream that broke or changed its size."""
        gone = self.tracks
        self._tracks.clear()
        self._bytetrack.reset()
        self._first_id = self._next_id
        return gone

    def _associate(self, detections: Detections, width: int, height: int, active_s: float) -> Any:
        pixels = detections.boxes * np.array([width, height, width, height], np.float32)
        boxes = sv.Detections(xyxy=pixels, confidence=detections.confidences, class_id=detections.classes)
        return self._bytetrack.update(boxes, timestamp=active_s)

    def _drop_lost(self, active_s: float) -> tuple[Track, ...]:
        lost = tuple(track for track in self._tracks.values() if active_s - track.last_active_s > self._settings.lost_s)
        for track in lost:
            del self._tracks[track.id]
        return lost
