"""What FFmpeg says while it reads a camera: the only place where it tells why it failed, and that a picture is damaged.

OpenCV prints it to C's stdout, a line at a time, in the thread that reads. So what was said since the last look is
about the picture that was just decoded (with one decoder thread; with more, about one of its neighbours).
"""

import ctypes
import os
import re

IOLBF = 1
READ_BYTES = 65536
ERROR_LEVEL = 16
_SAID = re.compile(r"^\[OPENCV:FFMPEG:(\d+)] (.*)$")


class FFmpegLog:
    """Takes C's stdout. Whatever is read is passed on to stderr; what nobody reads in time is lost, and blocks none."""

    def __init__(self) -> None:
        self._fd, said = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.dup2(said, 1)
        os.close(said)
        # By the line, or it would lie in a buffer when it is looked for.
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, IOLBF, 0)

    def lines(self) -> list[str]:
        """What was said since the last look."""
        try:
            said = os.read(self._fd, READ_BYTES)
        except BlockingIOError:
            return []
        os.write(2, said)
        return said.decode(errors="replace").splitlines()

    def tells_an_error(self) -> bool:
        """Whether an error is among what was said since the last look."""
        return any(level(line) <= ERROR_LEVEL for line in self.lines())


def level(line: str) -> int:
    """FFmpeg's own: the smaller, the worse. A line that is not FFmpeg's is no error."""
    said = _SAID.match(line)
    return int(said[1]) if said else ERROR_LEVEL + 1


def text(line: str) -> str:
    """The line without its prefix; empty where it is not FFmpeg's."""
    said = _SAID.match(line)
    return said[2] if said else ""
