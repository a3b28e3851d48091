"""The types that travel: a priority, an event, and how an event ends."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from uuid import UUID

from providers.base import Detection


class Priority(IntEnum):
    """How urgent; the smaller the number, the sooner."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3

    @property
    def word(self) -> str:
        return self.name.lower()


class EventKind(StrEnum):
    OBJECT_APPEARED = "object_appeared"
    OBJECT_LEFT = "object_left"
    CROWD_GATHERING = "crowd_gathering"
    CAMERA_DOWN = "camera_down"
    CAMERA_BACK = "camera_back"


class EventOutcome(StrEnum):
    """How an event ended; each has exactly one."""

    DONE = "done"
    DEGRADED = "degraded"
    FAILED = "failed"
    EXPIRED = "expired"
    SHED = "shed"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in front of a camera, or to it.

    `id` is a UUIDv7, made once at the trigger. `reason` says in words why the event exists. `captured_at` and
    `detected_at` are aware datetimes in UTC: when the frame was grabbed, and when the rule decided.
    `related_id` is the event that this one continues: an object_left names its object_appeared.
    `jpeg` is empty where there is no picture (camera_down).
    """

    id: UUID
    site: str
    camera: str
    kind: EventKind
    priority: Priority
    reason: str
    captured_at: datetime
    detected_at: datetime
    detections: tuple[Detection, ...] = ()
    label: str = ""
    track_id: int | None = None
    related_id: UUID | None = None
    jpeg: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Gap:
    """A span of time in which a camera gave no picture, so that nothing can be said about it. Times are aware, UTC."""

    id: UUID
    site: str
    camera: str
    started_at: datetime
    ended_at: datetime
    reason: str
