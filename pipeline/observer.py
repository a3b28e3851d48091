"""What one camera's frames amount to: events with the best picture of what they are about."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from pipeline.camera_events import CameraGone, Frame
from pipeline.events import Event, EventKind, Priority
from pipeline.identity import Recording, fresh_id
from pipeline.tracker import Tracker
from pipeline.tracks import Track
from pipeline.triggers import Finding, Triggers
from pipeline.yolo import Detections
from providers.base import Detection

TakePicture = Callable[[Frame], Awaitable[bytes]]

BETTER_BY = 1.15
"""A picture replaces the one before if it is better by this factor: an encoding costs more than it may gain."""

AT_THE_EDGE = 0.005
"""Closer to the border than this share of the picture, an object may be cut off."""

CUT_OFF_WORTH = 0.4


@dataclass(slots=True)
class _Candidate:
    """An object that has appeared, until the best of its first pictures is known."""

    finding: Finding
    until_s: float
    score: float = 0.0
    jpeg: bytes = field(default=b"", repr=False)
    captured_at: datetime | None = None
    detections: tuple[Detection, ...] = ()


class Observer:
    """Tracker, rules and pictures of one camera.

    `recording` is set for a file that is read once, frame by frame: its events get ids made of the file.
    `wants_picture` says of a kind of event whether anything is asked about it.
    """

    def __init__(
        self,
        site: str,
        camera: str,
        tracker: Tracker,
        triggers: Triggers,
        wants_picture: Callable[[EventKind], bool],
        recording: Recording | None = None,
    ) -> None:
        self.site = site
        self.camera = camera
        self._tracker = tracker
        self._triggers = triggers
        self._wants_picture = wants_picture
        self._recording = recording
        self._candidates: dict[int, _Candidate] = {}
        self._appearances: dict[int, UUID] = {}
        self._size: tuple[int, int] | None = None
        self._base_s = self._now_s = 0.0

    @property
    def replayed(self) -> bool:
        """Whether an event of this camera may have been told by an earlier run."""
        return self._recording is not None

    async def frame(self, frame: Frame, seen: Detections, take: TakePicture) -> list[Event]:
        """Everything that has become an event with this frame; the frame is not needed after."""
        size = (frame.letterbox.width, frame.letterbox.height)
        events = [] if self._size in (None, size) else self._forget_everyone()
        self._size = size
        self._now_s = self._base_s + frame.stream_s
        tracked = self._tracker.update(seen, *size, self._now_s, self._base_s + frame.active_s)
        findings = self._triggers.update(tracked, self._tracker.tracks, self._now_s)
        detections = tuple(track.as_detection() for track in tracked.seen)
        self._note_appearances(findings)
        await self._look_closer(frame, tracked.seen, detections, take)
        gone = {track.id for track in tracked.left}
        events += self._decided(lambda track_id, candidate: candidate.until_s <= self._now_s or track_id in gone)
        for finding in findings:
            if finding.kind is not EventKind.OBJECT_APPEARED:
                jpeg = await _picture(take, frame) if self._wants_picture(finding.kind) else b""
                events.append(self._event(finding, frame.captured_at, detections, jpeg))
        return events

    def interrupted(self) -> list[Event]:
        """The stream broke or ended, and its clock begins anew: who was just appearing is told now."""
        self._base_s, self._size = self._now_s, None
        return self._forget_everyone()

    def _forget_everyone(self) -> list[Event]:
        """Nobody is known any more; who was just appearing is told now."""
        events = self._decided(lambda _track_id, _candidate: True)
        self._tracker.reset()
        self._triggers.forget()
        self._appearances.clear()
        return events

    def is_due(self, kind: EventKind, at_s: float, cooldown_s: float) -> bool:
        """For an event of the camera itself: whether its rule's cooldown allows it. `at_s` is monotonic."""
        return self._triggers.is_due(kind, at_s, cooldown_s)

    def camera_event(self, kind: EventKind, priority: Priority, reason: str, related: Event | None = None) -> Event:
        """An event of the camera itself, without a picture."""
        now = datetime.now(UTC)
        return Event(
            fresh_id(),
            self.site,
            self.camera,
            kind,
            priority,
            reason,
            now,
            now,
            related_id=related.id if related else None,
        )

    def _note_appearances(self, findings: Iterable[Finding]) -> None:
        best_of_s = self._triggers.settings.object_appeared.best_of_s
        for finding in findings:
            if finding.kind is EventKind.OBJECT_APPEARED and finding.track_id is not None:
                self._candidates[finding.track_id] = _Candidate(finding, self._now_s + best_of_s)

    async def _look_closer(
        self, frame: Frame, seen: Iterable[Track], detections: tuple[Detection, ...], take: TakePicture
    ) -> None:
        """Take this frame's picture for every candidate that it shows better; one encoding serves them all."""
        for track in seen:
            candidate = self._candidates.get(track.id)
            if candidate is None or (score := _score(track)) < candidate.score * BETTER_BY:
                continue
            jpeg = await _picture(take, frame)
            if jpeg or not candidate.captured_at:
                candidate.score, candidate.jpeg = score, jpeg
                candidate.captured_at, candidate.detections = frame.captured_at, detections

    def _decided(self, is_ready: Callable[[int, _Candidate], bool]) -> list[Event]:
        ready = [track_id for track_id, candidate in self._candidates.items() if is_ready(track_id, candidate)]
        events: list[Event] = []
        for track_id in ready:
            candidate = self._candidates.pop(track_id)
            captured_at = candidate.captured_at or datetime.now(UTC)
            event = self._event(candidate.finding, captured_at, candidate.detections, candidate.jpeg)
            self._appearances[track_id] = event.id
            events.append(event)
        return events

    def _event(self, finding: Finding, captured_at: datetime, detections: tuple[Detection, ...], jpeg: bytes) -> Event:
        track_id = finding.track_id
        ended = finding.kind is EventKind.OBJECT_LEFT and track_id is not None
        return Event(
            id=self._recording.id_of(finding.kind, track_id, finding.since_s) if self._recording else fresh_id(),
            site=self.site,
            camera=self.camera,
            kind=finding.kind,
            priority=finding.priority,
            reason=finding.reason,
            captured_at=captured_at,
            detected_at=datetime.now(UTC),
            detections=detections,
            label=finding.label,
            track_id=track_id,
            related_id=self._appearances.pop(track_id, None) if ended and track_id is not None else None,
            jpeg=jpeg,
        )


def _score(track: Track) -> float:
    """How well an object is to be seen: large, sure, and not cut off by the picture's border."""
    box = track.box
    cut_off = min(box.x_min, box.y_min, 1 - box.x_max, 1 - box.y_max) < AT_THE_EDGE
    return box.area * track.confidence * (CUT_OFF_WORTH if cut_off else 1.0)


async def _picture(take: TakePicture, frame: Frame) -> bytes:
    """Empty if the camera's process died meanwhile: the event is told all the same."""
    try:
        return await take(frame)
    except CameraGone:
        return b""
