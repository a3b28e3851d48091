"""The process behind one camera: `python -m pipeline.camera_process`, started by `pipeline.camera_child`
only.

Two threads. The main one reads the camera, and may be stuck in it for as long as the parent lets it live. The
other obeys the parent; when stdin ends, the parent is gone or wants no more, and the process ends at once,
whatever the first does.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress

import cv2
import numpy as np

from pipeline.camera_feed import Feed
from pipeline.camera_link import (
    SEQ,
    SLOT,
    SLOT_AND_SEQ,
    ChildSettings,
    Command,
    LossCause,
    Message,
    Splitter,
    pack,
)
from pipeline.camera_log import FFmpegLog
from pipeline.camera_loss import SourceLostError
from pipeline.camera_memory import MemoryLimit
from pipeline.camera_slots import Slots
from pipeline.letterbox import Picture
from providers.parent import die_with_the_parent

READ_BYTES = 65536


class Outbox:
    """Whole messages to the parent, from either thread. Keeps the pipe to itself, so that no stray print gets
    between: what is printed goes elsewhere.
    """

    def __init__(self) -> None:
        self._fd = os.dup(1)
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, kind: Message, payload: bytes = b"") -> None:
        rest = memoryview(pack(kind, payload))
        with self._lock:
            while rest:
                rest = rest[os.write(self._fd, rest) :]


class CameraProcess:
    """What the two threads share: the slots, the way out, and the wish for a connection."""

    def __init__(self, settings: ChildSettings, outbox: Outbox, memory: MemoryLimit) -> None:
        self._settings, self._outbox, self._memory = settings, outbox, memory
        self._log = FFmpegLog()
        self._slots = Slots(settings)
        self._wanted = threading.Semaphore(0)

    def obey(self, commands: Iterator[tuple[int, bytes]]) -> None:
        """Thread: carry out what the parent says until it says no more, then end the process."""
        for kind, payload in commands:
            self._carry_out(kind, payload)
        os._exit(0)

    def _carry_out(self, kind: int, payload: bytes) -> None:
        if kind == Command.RELEASE:
            self._slots.give_back(SLOT.unpack(payload)[0])
        elif kind == Command.JPEG:
            slot, seq = SLOT_AND_SEQ.unpack(payload)
            self._outbox.send(Message.JPEG, SEQ.pack(seq) + self._encode(self._slots.natives[slot]))
        elif kind == Command.OPEN:
            self._wanted.release()

    def _encode(self, native: Picture | None) -> bytes:
        """The native picture as a JPEG, its long side at most jpeg_max_side_px."""
        if native is None:
            return b""
        height, width = native.shape[:2]
        scale = self._settings.jpeg_max_side_px / max(height, width)
        scaled: cv2.typing.MatLike = native
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            scaled = cv2.resize(native, size, interpolation=cv2.INTER_AREA)
        encoded = cv2.imencode(".jpg", scaled, [cv2.IMWRITE_JPEG_QUALITY, self._settings.jpeg_quality])[1]
        return np.asarray(encoded, np.uint8).tobytes()

    def follow(self) -> None:
        """Main thread: one connection for each OPEN, until this process is too large to go on."""
        seq = self._settings.first_seq
        while self._wanted.acquire():
            feed = Feed(self._settings, self._slots, self._outbox.send, self._log, self._memory, seq)
            try:
                feed.run()
            except SourceLostError as loss:
                self._outbox.send(Message.LOST, json.dumps([loss.cause, loss.reason]).encode())
                if loss.cause is LossCause.MEMORY:
                    return
            else:
                self._outbox.send(Message.ENDED)
            seq = feed.seq


def read_commands() -> Iterator[tuple[int, bytes]]:
    """What the parent says on stdin, until it is gone."""
    splitter = Splitter()
    while chunk := os.read(0, READ_BYTES):
        yield from splitter.feed(chunk)


def close_all_but(kept: set[int]) -> None:
    """Whatever else was inherited, another camera's stdin among it: while held here, it would never end
    there.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            with suppress(OSError):
                os.close(fd)


def main() -> None:
    die_with_the_parent(parent_pid=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    commands = read_commands()
    settings = ChildSettings.from_json(next(commands)[1])
    close_all_but({0, 1, 2, settings.memory_fd})
    outbox = Outbox()
    memory = MemoryLimit(settings.memory_limit_mb)
    memory.impose()
    cv2.setNumThreads(1)
    process = CameraProcess(settings, outbox, memory)
    threading.Thread(target=process.obey, args=(commands,), name="obey", daemon=True).start()
    outbox.send(Message.READY)
    process.follow()
    os._exit(0)  # not by way of the interpreter's end, which might ask for memory


if __name__ == "__main__":
    main()
