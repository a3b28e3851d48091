"""Accelerated time: an hour passes in a minute, for timers and clocks alike, without a change to what is tested."""

import asyncio
import selectors
import time

from pipeline.clock import Clock


class _HastySelector(selectors.DefaultSelector):
    def __init__(self, rate: float) -> None:
        super().__init__()
        self._rate = rate

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout if timeout is None else timeout / self._rate)


class HastyLoop(asyncio.SelectorEventLoop):
    """A loop whose clock runs `rate` times faster, and with it every sleep and every deadline."""

    def __init__(self, rate: float) -> None:
        super().__init__(_HastySelector(rate))
        self._rate = rate

    def time(self) -> float:
        return time.monotonic() * self._rate


class HastyClock(Clock):
    """The journal's clock, as fast as the loop; `jump_s` is how far someone has set the wall clock."""

    def __init__(self, rate: float, jump_s: float = 0.0) -> None:
        super().__init__()
        self._rate = rate
        self.jump_s = jump_s

    def wall(self) -> float:
        """Agrees with real time at the boot of the machine, so that one life's clock goes on where another's was."""
        booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted + self.boot() + self.jump_s

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME) * self._rate
