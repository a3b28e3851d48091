"""What a camera tells its consumer, and what it counts."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pipeline.camera_link import LossCause
from pipeline.letterbox import Letterbox, Picture


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """A picture for the detector.

    `picture` is a letterboxed view (height × width × 3, BGR) on memory shared with the camera's process,
    valid until the frame is released. `stream_s` never goes back within one connection: a file's position, or
    seconds since the opening. `active_s` is the same less the spans that were left out because nothing moved:
    the tracker's clock. `motion` is the share of the picture that changed since the last frame that was
    handed over.
    """

    camera: str
    seq: int
    slot: int
    picture: Picture = field(repr=False)
    letterbox: Letterbox = field(repr=False)
    captured_at: datetime
    stream_s: float
    active_s: float
    motion: float


@dataclass(frozen=True, slots=True)
class Opened:
    """The camera gives pictures, for the first time or again. `fps` is what the stream says about itself."""

    codec: str
    width: int
    height: int
    fps: float | None
    time_to_first_frame_s: float


@dataclass(frozen=True, slots=True)
class Lost:
    """There are no pictures since `since` (aware, UTC): the last good frame, or the start if there never was
    one.
    """

    reason: str
    since: datetime
    cause: LossCause


@dataclass(frozen=True, slots=True)
class Blind:
    """The stream goes on, and shows nothing since `since` (aware, UTC): it is frozen, black or blank."""

    reason: str
    since: datetime
    cause: LossCause


@dataclass(frozen=True, slots=True)
class Seeing:
    """After Blind, in the same connection: there are pictures again."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A file or folder without `loop` came to its end. Nothing follows."""


class CameraState(StrEnum):
    CONNECTING = "connecting"
    UP = "up"
    FROZEN = "frozen"
    BLACK = "black"
    DAMAGED = "damaged"
    DOWN = "down"
    ENDED = "ended"


@dataclass(slots=True)
class CameraStats:
    """Counters since the start. The child's are as of its last report, `reported_s` by the loop's clock."""

    state: CameraState = CameraState.CONNECTING
    frames_grabbed: int = 0
    reported_s: float = 0.0
    frames_handed: int = 0
    dropped_by_cause: Counter[str] = field(default_factory=Counter)
    restarts: int = 0
    down_reason: str = ""
    """Without secrets; empty while the camera gives pictures."""
    down_since_s: float = 0.0
    """By the clock that goes on while the machine sleeps; says something only while it is down."""


class CameraGone(Exception):  # noqa: N818 - a state of the world more than an error
    """The process that held the frame's native picture is dead, so there is no JPEG of it."""
