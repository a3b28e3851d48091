"""For how long a part has been at one thing: what a watchdog asks."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Progress:
    """Owned by one part, which is at one thing at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since_s: float | None = None

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self._since_s = self._clock()
        try:
            yield
        finally:
            self._since_s = None

    def busy_s(self) -> float:
        """0 while it waits for something to do."""
        return 0.0 if self._since_s is None else self._clock() - self._since_s
