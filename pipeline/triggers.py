"""The rules: what of all that is tracked is an event, how urgent, and why.

Each rule is a function of tracks and stream time alone, so that a recording gives the same events at every run.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import BeforeValidator, Field

from pipeline.events import EventKind, Priority
from pipeline.tracks import Track, Tracked
from providers.settings import Section

DEFAULT_OBJECTS = frozenset(
    (
        "person", "bicycle", "car", "motorcycle", "bus", "truck", "train", "boat", "bird", "cat", "dog", "horse",
        "sheep", "cow", "bear", "backpack", "handbag", "suitcase",
    )
)  # fmt: skip
"""Of a model that knows the 80 COCO classes, those that come and go by themselves or are left behind."""


def _priority(word: object) -> object:
    if isinstance(word, str):
        try:
            return Priority[word.upper()]
        except KeyError:
            raise ValueError("expected critical, high, medium or low") from None
    return word


PrioritySetting = Annotated[Priority, BeforeValidator(_priority)]


class ObjectAppearedSettings(Section):
    enabled: bool = Field(True, description="false: this rule makes no events")
    priority: PrioritySetting = Field(Priority.MEDIUM, description="critical, high, medium or low")
    best_of_s: float = Field(
        0.5, ge=0, le=10, description="The best picture of this long is the one that is asked about"
    )
    cooldown_s: float = Field(0.0, ge=0, description="After an event of this kind, none of the camera for so long")


class ObjectLeftSettings(Section):
    enabled: bool = Field(True, description="false: this rule makes no events")
    priority: PrioritySetting = Field(Priority.LOW, description="critical, high, medium or low")
    cooldown_s: float = Field(0.0, ge=0, description="After an event of this kind, none of the camera for so long")


class CrowdGatheringSettings(Section):
    enabled: bool = Field(True, description="false: this rule makes no events")
    priority: PrioritySetting = Field(Priority.HIGH, description="critical, high, medium or low")
    label: str = Field("person", description="Who or what gathers")
    count: int = Field(4, ge=2, le=1000, description="So many of them at once …")
    for_s: float = Field(3.0, ge=0, le=3600, description="… for so long")
    cooldown_s: float = Field(60.0, ge=0, description="After a crowd, no other of the camera for so long")


class CameraDownSettings(Section):
    enabled: bool = Field(True, description="false: this rule makes no events")
    priority: PrioritySetting = Field(Priority.HIGH, description="critical, high, medium or low")
    cooldown_s: float = Field(0.0, ge=0, description="After an event of this kind, none of the camera for so long")
    after_s: float = Field(10.0, ge=0, le=3600, description="A camera without pictures for so long is down")


class TriggerSettings(Section):
    objects: tuple[str, ...] | None = Field(
        None,
        description="Labels that make events; empty: people, vehicles, animals and bags, or all that the model knows",
    )
    object_appeared: ObjectAppearedSettings = ObjectAppearedSettings()
    object_left: ObjectLeftSettings = ObjectLeftSettings()
    crowd_gathering: CrowdGatheringSettings = CrowdGatheringSettings()
    camera_down: CameraDownSettings = CameraDownSettings()


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule's word that something happened. `track_id` is the object that it is about, `since_s` when it began."""

    kind: EventKind
    priority: Priority
    reason: str
    since_s: float
    label: str = ""
    track_id: int | None = None


def watched_labels(settings: TriggerSettings, labels: Iterable[str]) -> frozenset[str]:
    """The labels that make events, of those that the detector can report."""
    known = frozenset(labels)
    if settings.objects is not None:
        return known & frozenset(settings.objects)
    return known & DEFAULT_OBJECTS or known


@dataclass(slots=True)
class Triggers:
    """The rules of one camera, and the little that they remember: who was announced, and since when it is crowded."""

    settings: TriggerSettings
    labels: frozenset[str]
    suppressed: Counter[str] = field(default_factory=Counter)
    _announced: set[int] = field(default_factory=set)
    _last_s: dict[EventKind, float] = field(default_factory=dict)
    _crowded_since_s: float | None = None
    _crowd_told: bool = False

    def update(self, tracked: Tracked, present: Iterable[Track], stream_s: float) -> list[Finding]:
        """What happened in this frame. `present` is everyone who is seen or was until just now."""
        watched = [track for track in present if track.label in self.labels]
        return [
            *self._appeared(tracked, stream_s),
            *self._left(tracked.left, stream_s),
            *self._crowd(watched, stream_s),
        ]

    def _appeared(self, tracked: Tracked, stream_s: float) -> list[Finding]:
        settings = self.settings.object_appeared
        findings: list[Finding] = []
        for track in tracked.appeared:
            if not settings.enabled or track.label not in self.labels:
                continue
            if not self.is_due(EventKind.OBJECT_APPEARED, stream_s, settings.cooldown_s):
                continue
            self._announced.add(track.id)
            reason = f"{track.label} appeared, {track.confidence:.0%} sure"
            findings.append(
                Finding(EventKind.OBJECT_APPEARED, settings.priority, reason, track.first_seen_s, track.label, track.id)
            )
        return findings

    def _left(self, left: Iterable[Track], stream_s: float) -> list[Finding]:
        settings = self.settings.object_left
        findings: list[Finding] = []
        for track in left:
            if track.id not in self._announced:
                continue
            self._announced.remove(track.id)
            if settings.enabled and self.is_due(EventKind.OBJECT_LEFT, stream_s, settings.cooldown_s):
                stayed_s = track.last_seen_s - track.first_seen_s
                reason = f"{track.label} left after {stayed_s:.0f} s"
                findings.append(
                    Finding(EventKind.OBJECT_LEFT, settings.priority, reason, track.last_seen_s, track.label, track.id)
                )
        return findings

    def _crowd(self, present: Iterable[Track], stream_s: float) -> list[Finding]:
        settings = self.settings.crowd_gathering
        count = sum(track.label == settings.label for track in present)
        if not settings.enabled or count < settings.count:
            self._crowded_since_s, self._crowd_told = None, False
            return []
        if self._crowded_since_s is None:
            self._crowded_since_s = stream_s
        if self._crowd_told or stream_s - self._crowded_since_s < settings.for_s:
            return []
        self._crowd_told = True
        if not self.is_due(EventKind.CROWD_GATHERING, stream_s, settings.cooldown_s):
            return []
        reason = f"{count} × {settings.label} for {settings.for_s:g} s; {settings.count} or more are a crowd"
        return [Finding(EventKind.CROWD_GATHERING, settings.priority, reason, self._crowded_since_s, settings.label)]

    def is_due(self, kind: EventKind, at_s: float, cooldown_s: float) -> bool:
        """Outside the cooldown, which only an event that was really made starts; what it eats is counted."""
        last_s = self._last_s.get(kind)
        if last_s is not None and at_s - last_s < cooldown_s:
            self.suppressed[kind] += 1
            return False
        self._last_s[kind] = at_s
        return True

    def forget(self) -> None:
        """The stream broke: nobody who was here is known any more."""
        self._announced.clear()
        self._crowded_since_s, self._crowd_told = None, False
