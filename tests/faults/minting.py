"""Events to lose: of every kind and class, with nonces in whatever is text, and a picture that names its event."""

import hashlib
import random
from datetime import datetime, timedelta
from uuid import UUID

from pipeline.events import Event, EventKind, Priority
from pipeline.identity import fresh_id
from providers.base import Box, Detection

_START, _END = b"\xff\xd8", b"\xff\xd9"
_ALPHABET = "0123456789abcdefåßçðéñ漢字テスト🦀🚒\"'\\{}$%?\n\t\u200b\u202e"
_KINDS = {
    EventKind.OBJECT_APPEARED: 70,
    EventKind.CROWD_GATHERING: 10,
    EventKind.OBJECT_LEFT: 14,
    EventKind.CAMERA_DOWN: 4,
    EventKind.CAMERA_BACK: 2,
}
WITHOUT_PICTURE = 0.02
"""Share of events whose picture could not be taken."""


def an_event(site: str, priority: Priority, now: datetime, picture_bytes: int, is_asked: bool = False) -> Event:
    """With `is_asked`, one that somebody has to be asked about."""
    event_id = fresh_id()
    kind = EventKind.OBJECT_APPEARED if is_asked else random.choices([*_KINDS], [*_KINDS.values()])[0]
    has_picture = is_asked or (kind is not EventKind.CAMERA_DOWN and random.random() >= WITHOUT_PICTURE)
    return Event(
        id=event_id,
        site=site,
        camera=f"camera {random.randrange(8)}",
        kind=kind,
        priority=priority,
        reason=f"because of {_nonce(30)}",
        captured_at=now - timedelta(microseconds=random.randrange(2_000_000)),
        detected_at=now,
        detections=tuple(_a_detection() for _ in range(random.randrange(4))),
        label=random.choice(["person", "", _nonce(8)]),
        track_id=random.choice([None, random.randrange(2**62)]),
        related_id=fresh_id() if kind is EventKind.OBJECT_LEFT else None,
        jpeg=_picture(event_id, picture_bytes) if has_picture else b"",
    )


def subject(jpeg: bytes) -> str:
    """Which event a picture is of, or that it is not whole."""
    event_id = UUID(bytes=jpeg[2:18])
    return str(event_id) if jpeg == _picture(event_id, len(jpeg) - 20) else "a damaged picture"


def _picture(event_id: UUID, size: int) -> bytes:
    return _START + event_id.bytes + hashlib.shake_128(event_id.bytes).digest(size) + _END


def _a_detection() -> Detection:
    x, y = random.random(), random.random()
    box = Box(x, y, min(1.0, x + random.random()), min(1.0, y + random.random()))
    return Detection(_nonce(6), random.random(), box, random.choice([None, random.randrange(1000)]))


def _nonce(length: int) -> str:
    return "".join(random.choices(_ALPHABET, k=length))
