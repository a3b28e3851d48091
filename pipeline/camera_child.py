"""The parent's hold on one camera process: its pipes, its memory, its last words, its end."""

import asyncio
import mmap
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pipeline.camera_link import MAX_PIXELS, ChildSettings, Command, DetectorInput, Splitter, pack, slot_view
from pipeline.camera_settings import CameraSettings
from pipeline.letterbox import Picture

SLOTS_REALTIME = 5
"""Three in the consumer's hands, one waiting, one being drawn: the newest can replace the one that waits."""

SLOTS_FULL = 7
"""Two more, so that neither side waits for the other's hiccups."""

STDERR_LINES = 100
ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = {
    "OPENCV_IO_MAX_IMAGE_PIXELS": str(MAX_PIXELS),
    "OPENCV_FFMPEG_LOGLEVEL": "32",  # down to information: that a camera sends us elsewhere is no more to FFmpeg
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",  # fixed, or what is freed stays with the process
    "MALLOC_TRIM_THRESHOLD_": "131072",
}
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""All that a child gets of our environment, where keys of providers may stand."""


class CameraChild(asyncio.SubprocessProtocol):
    """One process, from spawn to its end. `on_message` and `on_gone` are called on the loop; `gone` is set
    last.
    """

    def __init__(self, on_message: Callable[[int, bytes], None], on_gone: Callable[[], None]) -> None:
        self._on_message, self._on_gone = on_message, on_gone
        self._splitter = Splitter()
        self._stdin: asyncio.WriteTransport | None = None
        self._half_line = b""
        self._views: dict[tuple[int, int, int], Picture] = {}
        self.stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self.gone = asyncio.Event()

    async def spawn(self, settings: CameraSettings, input_size: DetectorInput, first_seq: int) -> None:
        """Start the process and tell it what it needs to know; does not wait until it is ready."""
        slots = SLOTS_FULL if settings.pace == "full" else SLOTS_REALTIME
        self._slot_bytes = input_size.slot_bytes
        memory_fd = os.memfd_create(f"lva-{settings.name}")
        try:
            os.ftruncate(memory_fd, slots * self._slot_bytes)
            self._memory = mmap.mmap(memory_fd, slots * self._slot_bytes)
            await self._start(settings.name, memory_fd)
        finally:
            os.close(memory_fd)
        self.send(Command.SETTINGS, child_settings(settings, input_size, first_seq, slots, memory_fd).to_json())

    async def _start(self, name: str, memory_fd: int) -> None:
        argv = [sys.executable, "-m", "pipeline.camera_process", str(os.getpid()), name]
        inherited = {key: os.environ[key] for key in INHERITED if key in os.environ}
        await asyncio.get_running_loop().subprocess_exec(
            lambda: self, *argv, env=inherited | ENVIRONMENT, cwd=ROOT, pass_fds=(memory_fd,)
        )

    @property
    def pid(self) -> int:
        pid = self._transport.get_pid()
        assert pid is not None
        return pid

    @property
    def how_it_ended(self) -> str:
        code = self._transport.get_returncode()
        if code is not None and code < 0:
            return f"the camera process was killed by {signal.Signals(-code).name}"
        return f"the camera process ended with code {code}"

    def view(self, slot: int, height: int, width: int) -> Picture:
        """The picture in a slot, made once for each slot and size: it is the dearest part of a frame here."""
        key = slot, height, width
        if (view := self._views.get(key)) is None:
            view = self._views[key] = slot_view(self._memory, slot, self._slot_bytes, height, width)
        return view

    def send(self, command: Command, payload: bytes = b"") -> None:
        """Never blocks; to a child that is gone, it does nothing."""
        if self._stdin is not None:
            self._stdin.write(pack(command, payload))

    async def kill(self) -> None:
        """SIGKILL, and wait until the process is reaped. There is nothing that it would have to save."""
        if not self.gone.is_set():
            if self._transport.get_returncode() is None:
                self._transport.kill()
            await self.gone.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports don't inherit from asyncio's: nothing to check by isinstance.
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 1:
            for kind, payload in self._splitter.feed(data):
                self._on_message(kind, payload)
        else:
            *lines, self._half_line = (self._half_line + data).split(b"\n")
            self.stderr.extend(line.decode(errors="replace") for line in lines)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 0:
            self._stdin = None

    def connection_lost(self, exc: Exception | None) -> None:
        """All pipes are read to their end, and the process is reaped."""
        self._stdin = None
        self._views.clear()
        del self._memory  # it lives on as long as a frame that shows it
        self._transport.close()
        self._on_gone()
        self.gone.set()


def child_settings(
    settings: CameraSettings, input_size: DetectorInput, first_seq: int, slots: int, memory_fd: int
) -> ChildSettings:
    """What of the settings the child needs."""
    return ChildSettings(
        url=settings.url.get_secret_value(),
        kind=settings.kind,
        full_pace=settings.pace == "full",
        loop=settings.loop,
        detect_fps=settings.detect_fps,
        open_timeout_s=settings.open_timeout_s,
        read_timeout_s=settings.read_timeout_s,
        jpeg_quality=settings.jpeg_quality,
        jpeg_max_side_px=settings.jpeg_max_side_px,
        motion=settings.motion,
        still_refresh_s=settings.still_refresh_s,
        frozen_after_s=settings.frozen_after_s,
        decoder_threads=settings.decoder_threads,
        memory_limit_mb=settings.memory_limit_mb,
        input_size=input_size,
        first_seq=first_seq,
        slots=slots,
        memory_fd=memory_fd,
    )
