"""Lines to a file descriptor that may block for ever, written by a thread of their own: who logs never waits."""

import io
import os
import select
import threading
from collections import deque
from collections.abc import Callable

LINES_MAX = 10_000
CHARS_MAX = 16 * 2**20
"""Bounds of what waits; a line is some hundred characters, a traceback some thousand."""

_WRITE_BYTES = 64 * 1024


class LogWriter(io.TextIOBase):
    """A stream of whole lines. When nobody reads them, the newest are dropped and counted; the work goes on.

    `on_flow` is called by the thread with the number of lines lost, once lines pass again.
    """

    def __init__(self, fd: int, on_flow: Callable[[int], None], lines_max: int = LINES_MAX) -> None:
        self.dropped = 0
        """Since the start."""
        self._fd = fd
        self._on_flow = on_flow
        self._lines_max = lines_max
        self._lines: deque[str] = deque()
        self._chars = 0
        self._untold = 0
        self._torn = False
        self._closing = False
        # A lock that its holder may take again: a warning may be logged by the garbage collector, at any moment.
        self._changed = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def write(self, line: str) -> int:
        """Never blocks."""
        with self._changed:
            if len(self._lines) >= self._lines_max or self._chars + len(line) > CHARS_MAX:
                self._count_dropped(1)
            else:
                self._lines.append(line)
                self._chars += len(line)
                self._changed.notify()
        return len(line)

    def stop(self, within_s: float) -> None:
        """Write what waits, for at most so long."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(within_s)

    def _run(self) -> None:
        while lines := self._next_lines():
            try:
                self._put("".join(lines))
            except OSError:  # the reader is gone or the disk full: these lines are lost, and the work goes on
                self._count_dropped(len(lines))
            else:
                self._tell_dropped()

    def _next_lines(self) -> list[str]:
        """Wait for a line; as many as make a good write. Empty at the end."""
        lines: list[str] = []
        taken = 0
        with self._changed:
            while not self._lines and not self._closing:
                self._changed.wait()
            while self._lines and taken < _WRITE_BYTES:
                lines.append(self._lines.popleft())
                taken += len(lines[-1])
            self._chars -= taken
        return lines

    def _put(self, text: str) -> None:
        """Straight to the descriptor: a buffer with a lock of its own would hold up the interpreter's end."""
        rest = memoryview(("\n" * self._torn + text).encode("utf-8", "backslashreplace"))
        while rest:
            try:
                written = os.write(self._fd, rest)
            except BlockingIOError:  # whoever made the pipe wants nobody to wait in write
                select.select([], [self._fd], [])
            else:
                self._torn = rest[written - 1] != ord("\n")
                rest = rest[written:]

    def _tell_dropped(self) -> None:
        with self._changed:
            if not self._untold or len(self._lines) > self._lines_max // 2:
                return
            count, self._untold = self._untold, 0
        self._on_flow(count)

    def _count_dropped(self, count: int) -> None:
        with self._changed:
            self.dropped += count
            self._untold += count
