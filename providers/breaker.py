"""A circuit breaker: a provider that mostly fails is left alone for a while, then tried with one call."""

import random
from collections import deque
from collections.abc import Callable
from enum import StrEnum

WINDOW_S = 60.0
MEMORY_S = 600.0
MIN_CALLS = 5
BAD_SHARE = 0.5
OPEN_S = 15.0
MAX_OPEN_S = 300.0
JITTER = 0.2
"""Sized for about one event a second; the windows of a hundred calls that libraries have would take minutes
to notice."""


class Permit(StrEnum):
    NORMAL = "normal"
    TRIAL = "trial"


class Breaker:
    """Closed, open, or half open with one trial under way.

    `admit` gives a permit, and each permit goes back by exactly one `record` or `give_back`. What comes in
    late, from calls that were under way when the breaker opened, changes nothing.
    """

    def __init__(self, clock: Callable[[], float], uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._clock = clock
        self._uniform = uniform
        self._calls: deque[tuple[float, bool]] = deque()
        self._open_until: float | None = None
        self._opened = 0
        self._trial = False

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    @property
    def wait_s(self) -> float:
        """How long until a trial is allowed; 0 when a call would be admitted now."""
        if self._open_until is None:
            return 0.0
        return max(0.0, self._open_until - self._clock())

    def admit(self) -> Permit | None:
        if self._open_until is None:
            return Permit.NORMAL
        if self._trial or self._clock() < self._open_until:
            return None
        self._trial = True
        return Permit.TRIAL

    def give_back(self, permit: Permit) -> None:
        """The call told nothing, for or against: it was cancelled, or never sent."""
        if permit is Permit.TRIAL:
            self._trial = False

    def record(self, permit: Permit, *, good: bool) -> None:
        if permit is Permit.TRIAL:
            self._trial = False
            self._close() if good else self._open()
        elif self._open_until is None:
            self._calls.append((self._clock(), good))
            if self._is_bad():
                self._open()

    def _is_bad(self) -> bool:
        now_s = self._clock()
        while self._calls and self._calls[0][0] < now_s - self._memory_s():
            self._calls.popleft()
        bad = sum(not good for _, good in self._calls)
        return len(self._calls) >= MIN_CALLS and bad >= BAD_SHARE * len(self._calls)

    def _memory_s(self) -> float:
        """The last minute, or where that holds too few calls to tell, the last ten: a server that hangs for
        thirty seconds a call would never fill a minute.
        """
        return WINDOW_S if len(self._calls) > MIN_CALLS else MEMORY_S

    def _open(self) -> None:
        period_s = min(OPEN_S * 2**self._opened, MAX_OPEN_S)
        self._opened += 1
        self._open_until = self._clock() + period_s * self._uniform(1 - JITTER, 1 + JITTER)
        self._calls.clear()

    def _close(self) -> None:
        self._open_until = None
        self._opened = 0
