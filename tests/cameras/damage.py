"""Clips of every usual codec, and what years, cables and disks do to them."""

import random
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import av
import numpy as np

from tests.cameras.pictures import scene

CODECS = {"h264.mp4": "libx264", "h264.ts": "libx264", "h265.mp4": "libx265", "mjpeg.avi": "mjpeg"}
SIZE = (192, 144)
FRAMES = 60
FPS = 10


@cache
def clips() -> Mapping[str, bytes]:
    """One noisy scene in each codec, by file name."""
    av.logging.set_level(av.logging.PANIC)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / name for name in CODECS}
        for name, path in paths.items():
            _encode(path, CODECS[name])
        return {name: path.read_bytes() for name, path in paths.items()}


def _encode(path: Path, codec: str) -> None:
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "g": "12", "x265-params": "keyint=12:log-level=none"}
        stream = container.add_stream(codec, rate=FPS, options={} if codec == "mjpeg" else options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(FRAMES):
            noise = np.random.default_rng(index).normal(0, 8, (SIZE[1], SIZE[0], 3))
            picture = np.clip(scene(index, SIZE) + noise, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="bgr24")))
        container.mux(stream.encode(None))


def flipped(content: bytes, lot: random.Random) -> bytes:
    """One to a hundred bits are others."""
    damaged = bytearray(content)
    for _ in range(lot.choice((1, 5, 20, 100))):
        damaged[lot.randrange(len(damaged))] ^= 1 << lot.randrange(8)
    return bytes(damaged)


def cut(content: bytes, lot: random.Random) -> bytes:
    return content[: lot.randrange(len(content))]


def holed(content: bytes, at: int, length: int) -> bytes:
    return content[:at] + bytes(length) + content[at + length :]
