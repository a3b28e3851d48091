"""Signs of life for the service manager, given only while everything inside makes progress.

A timer that ticks proves only that the loop runs. So each part says for how long it has been at what it does, and
one that takes longer than it ever may is stuck: then no sign is given, and the service manager starts the daemon
anew. What is outside (database, cameras, providers) is never a reason: a restart would not bring it back.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from daemon.systemd import Notifier

LOOP_LAG_S = 5.0
SIGNS_PER_LIMIT = 3
DEFAULT_PERIOD_S = 10.0
"""Where no service manager asks: what is stuck is told in the log all the same."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Token:
    """A part's progress: `busy_s` is for how long it has been at one thing, 0 while it waits for something to do."""

    name: str
    busy_s: Callable[[], float]
    limit_s: float

    @property
    def is_stale(self) -> bool:
        return self.busy_s() > self.limit_s


class Watchdog:
    def __init__(self, tokens: Callable[[], Iterable[Token]], notifier: Notifier) -> None:
        """`tokens` is asked anew each time: cameras come and go."""
        self._tokens = tokens
        self._notifier = notifier
        self._period_s = notifier.watchdog_s / SIGNS_PER_LIMIT if notifier.watchdog_s else DEFAULT_PERIOD_S
        self._told: list[str] = []
        self._lag_s = 0.0

    def stale(self) -> list[str]:
        """The names of what is stuck; empty while all is well."""
        lag = ["event loop"] if self._lag_s > LOOP_LAG_S else []
        return lag + [token.name for token in self._tokens() if token.is_stale]

    async def feed_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not (stale := self.stale()):
                self._notifier.alive()
            if stale != self._told:
                self._tell(stale)
            woken_s = loop.time() + self._period_s
            await asyncio.sleep(self._period_s)
            self._lag_s = loop.time() - woken_s

    def _tell(self, stale: list[str]) -> None:
        self._told = stale
        if stale:
            log.error("watchdog.stuck", parts=stale, limit_s=self._notifier.watchdog_s)
        else:
            log.info("watchdog.ok")
