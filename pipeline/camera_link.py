"""What a camera's two processes say to each other, and the memory that they share. The child imports nothing
heavier.

Both directions speak the same framing over the child's stdin and stdout: one byte of kind, four of length, a
payload. Pictures don't travel: they lie in the slots of one memfd, and a FRAME message says in which.
"""

import json
import mmap
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np

from pipeline.letterbox import STRIDE, Picture

HEADER = struct.Struct("<BI")
FRAME = struct.Struct("<QIdddfIIII")
"""seq, slot, captured_at (Unix time), stream_s, active_s, motion, width, height, input height, input width.
"""
SLOT = struct.Struct("<I")
SEQ = struct.Struct("<Q")
SLOT_AND_SEQ = struct.Struct("<IQ")

MAX_PIXELS = 50_000_000
"""Of one picture: more than any camera gives. A few hundred kilobytes can decode to gigabytes."""


class Command(IntEnum):
    """From the parent. SETTINGS comes first and once; OPEN starts a connection; RELEASE frees a slot."""

    SETTINGS = 1
    OPEN = 2
    RELEASE = 3
    JPEG = 4


class Message(IntEnum):
    """From the child. STATUS comes twice a second, to prove progress; LOST and ENDED end what OPEN began."""

    READY = 1
    OPENED = 2
    FRAME = 3
    JPEG = 4
    STATUS = 5
    LOST = 6
    ENDED = 7


class LossCause(StrEnum):
    """Why there is no picture."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    AUTH = "auth"
    MISSING = "missing"
    UNSUPPORTED = "unsupported"
    REDIRECTED = "redirected"
    TOO_LARGE = "too_large"
    CLOSED = "closed"
    CRASHED = "crashed"
    MEMORY = "memory"
    FROZEN = "frozen"
    BLACK = "black"


class Health(StrEnum):
    """Whether what an open camera shows can be called a picture."""

    OK = "ok"
    FROZEN = "frozen"
    BLACK = "black"
    DAMAGED = "damaged"
    """Every one of them is; they are looked at all the same."""


class SourceKind(StrEnum):
    RTSP = "rtsp"
    HTTP = "http"
    DEVICE = "device"
    FILE = "file"
    """A video file, or a folder of images: which one, the child sees when it opens it."""


@dataclass(frozen=True, slots=True)
class DetectorInput:
    """What the detector takes: pictures whose long side is `size_px`, or only those of `fixed` (height,
    width).
    """

    size_px: int
    fixed: tuple[int, int] | None = None

    @property
    def slot_bytes(self) -> int:
        """Room for the largest picture that can ever be drawn."""
        side = -(-self.size_px // STRIDE) * STRIDE
        height, width = self.fixed or (side, side)
        return height * width * 3


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """All that the child is told; it comes over stdin, because the URL may hold a password."""

    url: str
    kind: SourceKind
    full_pace: bool
    loop: bool
    detect_fps: float
    open_timeout_s: float
    read_timeout_s: float
    jpeg_quality: int
    jpeg_max_side_px: int
    motion: bool
    still_refresh_s: float
    frozen_after_s: float
    decoder_threads: int
    memory_limit_mb: int
    input_size: DetectorInput
    first_seq: int
    slots: int
    memory_fd: int

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> "ChildSettings":
        values: dict[str, Any] = json.loads(text)
        size_px, fixed = values.pop("input_size").values()
        input_size = DetectorInput(size_px, tuple(fixed) if fixed else None)
        return cls(**values | {"kind": SourceKind(values["kind"]), "input_size": input_size})


def pack(kind: int, payload: bytes | memoryview = b"") -> bytes:
    """One message, as it goes over the pipe."""
    return HEADER.pack(kind, len(payload)) + payload


class Splitter:
    """Cuts what a pipe delivers, in whatever pieces, into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        """Every message that is complete now, as (kind, payload)."""
        held = self._rest + chunk if self._rest else chunk
        start = 0
        while len(held) - start >= HEADER.size:
            kind, length = HEADER.unpack_from(held, start)
            end = start + HEADER.size + length
            if end > len(held):
                break
            yield kind, held[start + HEADER.size : end]
            start = end
        self._rest = held[start:]


def slot_view(memory: mmap.mmap, slot: int, slot_bytes: int, height: int, width: int) -> Picture:
    """The picture in a slot: a view on the shared memory, nothing is copied."""
    flat = np.frombuffer(memory, np.uint8, height * width * 3, slot * slot_bytes)
    return flat.reshape(height, width, 3)
