"""Providers in the order of preference: each request goes down the list until someone answers it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from providers.base import Analysis, Attempt, Failure, Outcome, ProviderError, Request
from providers.guard import Guarded
from providers.tally import ProviderStats

_NOT_HEARD = {
    Failure.UNAVAILABLE,
    Failure.CONNECTION_ERROR,
    Failure.AUTH,
    Failure.NOT_FOUND,
    Failure.RATE_LIMITED,
    Failure.OVERLOADED,
}
"""Failures that say nothing about the request: nobody looked at the picture."""


class ProviderChain:
    """Itself a provider. Only what one provider failed at goes to the next, item by item, so none waits for
    another.

    Where nobody even looked at the picture, the failure is UNAVAILABLE and `retry_after_s` says when someone
    may again: the work is to be kept. Any other failure is final, and is that of the first who did look.
    """

    name = "chain"

    def __init__(self, providers: Sequence[Guarded], clock: Callable[[], float] = time.monotonic) -> None:
        self.providers = tuple(providers)
        self._clock = clock

    @property
    def pictures_at_once(self) -> int:
        """How many pictures the first provider that is up can use at the same time: the size of a useful
        batch."""
        usable = [one for one in self.providers if one.state == "up"] or self.providers
        return usable[0].limits.pictures_at_once if usable else 1

    @property
    def wait_s(self) -> float:
        """How long until anyone may be asked; 0 when someone may be now."""
        return min((one.wait_s for one in self.providers), default=0.0)

    def stats(self) -> tuple[ProviderStats, ...]:
        """Counters since the start and the state of each, in the chain's order."""
        return tuple(one.stats for one in self.providers)

    def use(self, providers: Sequence[Guarded]) -> None:
        """From the next request on. What is being asked already goes on where it is."""
        self.providers = tuple(providers)

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(request), name=f"analyze {request.event_id}") for request in requests]
        return [task.result() for task in tasks]

    async def probe(self) -> str:
        """Ask all, and say who answered. Raises ProviderError where nobody does."""
        told: list[str] = []
        attempts: list[Attempt] = []
        for one in self.providers:
            try:
                told.append(f"{one.name}: {await one.probe()}")
            except ProviderError as error:
                attempts.append(Attempt(one.name, error.failure, error.message, 0.0))
        if not told:
            raise _failed(attempts, self.wait_s)
        return "; ".join(told)

    async def _ask(self, request: Request) -> Outcome:
        if not request.questions:
            return ProviderError(Failure.BAD_REQUEST, "nothing is asked about this picture")
        attempts: list[Attempt] = []
        for one in self.providers:
            started_s = self._clock()
            outcome = await one.ask(request)
            duration_ms = (self._clock() - started_s) * 1000
            if isinstance(outcome, Analysis):
                own = Attempt(one.name, None, "", duration_ms)
                return replace(outcome, attempts=(*attempts, own))
            attempts.append(Attempt(one.name, outcome.failure, outcome.message, duration_ms))
        return _failed(attempts, self.wait_s)


def _failed(attempts: Sequence[Attempt], wait_s: float) -> ProviderError:
    told = "; ".join(f"{one.provider}: {one.failure}: {one.message}" for one in attempts)
    looked = [one.failure for one in attempts if one.failure and one.failure not in _NOT_HEARD]
    return ProviderError(
        looked[0] if looked else Failure.UNAVAILABLE,
        told or "no provider is configured",
        retry_after_s=None if looked else wait_s,
        attempts=tuple(attempts),
    )
