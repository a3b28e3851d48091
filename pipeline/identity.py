"""Who is who: ids of events, made once."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import uuid6

from pipeline.events import EventKind


def fresh_id() -> UUID:
    """A UUIDv7 (RFC 9562): sorts by the time of its making."""
    return UUID(int=uuid6.uuid7().int)


@dataclass(frozen=True, slots=True)
class Recording:
    """A file that is watched from its start to its end, frame by frame: the same evidence at every run.

    So the same event in it gets the same id, and a second run, or one after a crash, tells nothing twice.
    A changed file (size, time of change) or camera is another recording.
    """

    site: str
    camera: str
    path: Path

    def id_of(self, kind: EventKind, track_id: int | None, stream_s: float) -> UUID:
        """A UUIDv7 whose time is the file's plus the place in it, and whose other bits say which event it is."""
        stat = self.path.stat()
        said = (
            self.site,
            self.camera,
            self.path.name,
            stat.st_size,
            stat.st_mtime_ns,
            kind,
            track_id,
            round(stream_s, 3),
        )
        digest = hashlib.blake2b(repr(said).encode(), digest_size=10).digest()
        milliseconds = (stat.st_mtime_ns // 1_000_000 + round(stream_s * 1000)) & (2**48 - 1)
        bits = (milliseconds << 80) | int.from_bytes(digest)
        bits = bits & ~(0xF << 76) | (0x7 << 76)  # version 7
        bits = bits & ~(0x3 << 62) | (0x2 << 62)  # variant 10
        return UUID(int=bits)
