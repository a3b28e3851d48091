"""What a provider may cost: second tries as a share of calls, money as a sum per day."""

from collections import deque
from collections.abc import Callable
from datetime import UTC, date, datetime

WINDOW_S = 60.0


class RetryBudget:
    """Retries as a share of the calls of the last minute, so that a failing server isn't asked three times as
    often.

    One retry a minute is always allowed, unless the share is 0: a quiet box would never get any otherwise.
    """

    def __init__(self, share: float, clock: Callable[[], float]) -> None:
        self._share = share
        self._clock = clock
        self._calls: deque[float] = deque()
        self._retries: deque[float] = deque()

    def called(self) -> None:
        self._forget()
        self._calls.append(self._clock())

    def take(self) -> bool:
        """Whether one more retry is allowed; it is then counted."""
        self._forget()
        if self._share <= 0 or len(self._retries) + 1 > max(1.0, self._share * len(self._calls)):
            return False
        self._retries.append(self._clock())
        return True

    def _forget(self) -> None:
        past = self._clock() - WINDOW_S
        for times in (self._calls, self._retries):
            while times and times[0] < past:
                times.popleft()


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MoneyBudget:
    """What was spent today, by the UTC day. In memory: a restart starts the day's count again."""

    def __init__(self, usd_per_day: float | None, now: Callable[[], datetime] = _utc_now) -> None:
        self._limit = usd_per_day
        self._now = now
        self._day: date = now().date()
        self._spent_usd = 0.0

    @property
    def spent_usd(self) -> float:
        self._turn_page()
        return self._spent_usd

    @property
    def is_spent(self) -> bool:
        return self._limit is not None and self.spent_usd >= self._limit

    def spend(self, usd: float) -> None:
        self._turn_page()
        self._spent_usd += usd

    def _turn_page(self) -> None:
        if (today := self._now().date()) != self._day:
            self._day, self._spent_usd = today, 0.0
