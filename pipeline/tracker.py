"""One tracker per camera: which box is whom, from frame to frame."""

from typing import Any

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker

from pipeline.tracks import Track, Tracked, TrackerSettings
from pipeline.yolo import Detections
from providers.base import Box

_LIBRARY_FPS = 30.0
"""`trackers` counts its buffer of lost tracks in frames of 30 fps, whatever the camera's rate."""


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
            box, confidence = (
                Box(*(round(float(side), 4) for side in corners)),
                round(float(found.confidence[index]), 4),
            )
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
