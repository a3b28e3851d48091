"""When a grabbed frame is, on its stream's own clock, and whether it is one of the `detect_fps` that are
used.
"""

import time
from collections.abc import Callable
from typing import Protocol

NAP_S = 0.5
"""A long wait for a file's next frame is cut into naps of this length, to report progress between them."""

ROUNDING = 1e-6
"""A frame at exactly a sample's time belongs to it, whatever the last bit of the division says."""


class Pace(Protocol):
    """`stream_s` is the time of the last frame given to `used`; it never goes back."""

    stream_s: float

    def used(self) -> bool:
        """A frame was just grabbed: is it to be used? May wait until it is that frame's time."""


class LivePace:
    """Frames come when they come; time counts from the opening."""

    def __init__(self, detect_fps: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s, self._clock = 1 / detect_fps, clock
        self._opened_s = clock()
        self._due_s = 0.0
        self.stream_s = 0.0

    def used(self) -> bool:
        self.stream_s = self._clock() - self._opened_s
        if self.stream_s < self._due_s:
            return False
        # The next is due one interval after this one was, so that 25 a second sampled at 10 give 10, not 8.3.
        self._due_s = max(self._due_s, self.stream_s - self._interval_s) + self._interval_s
        return True


class FilePace:
    """Frames lie at index / fps. In real time each is waited for; else they come as fast as they are read."""

    def __init__(self, fps: float, detect_fps: float, realtime: bool, still_here: Callable[[], None]) -> None:
        self._fps, self._share, self._realtime, self._still_here = fps, detect_fps / fps, realtime, still_here
        self._started_s = time.monotonic()
        self._index = -1
        self.stream_s = 0.0

    def used(self) -> bool:
        self._index += 1
        self.stream_s = self._index / self._fps
        if self._realtime:
            self._wait()
        return self._sample(self._index) != self._sample(self._index - 1)

    def _sample(self, index: int) -> int:
        return int(index * self._share + ROUNDING) if index >= 0 else -1

    def _wait(self) -> None:
        while (left_s := self._started_s + self.stream_s - time.monotonic()) > 0:
            time.sleep(min(left_s, NAP_S))
            self._still_here()
