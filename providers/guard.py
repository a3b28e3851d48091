"""One provider of the chain, behind all that keeps it and its bill within bounds.

A refusal costs nothing and says why. What a provider's failures mean for the provider is each error's
`advice`.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

import structlog

from providers.base import Advice, Analysis, Failure, Outcome, Provider, ProviderError, Request
from providers.breaker import Breaker, Permit
from providers.budget import MoneyBudget
from providers.slots import Slots
from providers.tally import ProviderStats, Tally, stats_of

SLOW_SHARE = 0.9
"""An answer that took more than this share of its deadline counts as bad: the next one will miss it."""

FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 60.0
PROBE_TIMEOUT_S = 10.0
REPROBE_S = 60.0
REPROBE_AUTH_S = 600.0
MAX_SUSPECTS = 1000
MAX_BAD_REQUESTS = 3
"""More than this in a row, and it isn't the pictures: the model or the address is wrong."""

_BILLED = {
    Failure.TIMEOUT,
    Failure.INVALID_OUTPUT,
    Failure.TRUNCATED,
    Failure.EMPTY,
    Failure.SERVER_ERROR,
}
"""Failures after which the work may have been done, and is paid for."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one provider. `assumed_usd` is what a call is taken to cost where the server doesn't tell."""

    timeout_s: float = 30.0
    pictures_at_once: int = 16
    assumed_usd: float = 0.0


Measure = Callable[[str, float, float], None]
"""Told of each call: the provider's name, how long the picture waited for its turn, and how long the call took."""


def unmeasured(_provider: str, _waited_s: float, _took_s: float) -> None: ...


@dataclass(slots=True)
class _Parked:
    message: str
    period_s: float
    probe_at_s: float
    probing: bool = False


class Guarded:
    """A provider with a deadline, a bound on pictures at once, a breaker, pauses, a parking place and a day's
    budget."""

    def __init__(
        self,
        provider: Provider,
        limits: Limits | None = None,
        *,
        money: MoneyBudget | None = None,
        tally: Tally | None = None,
        measure: Measure = unmeasured,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.name = provider.name
        self.limits = limits or Limits()
        self._provider = provider
        self._money = money or MoneyBudget(None)
        self._tally = tally or Tally()
        self._measure = measure
        self._clock = clock
        self._breaker = Breaker(clock, uniform)
        self._slots = Slots(self.limits.pictures_at_once)
        self._suspects: dict[UUID, None] = {}
        self._paused_until_s = 0.0
        self._pauses = 0
        self._bad_requests = 0
        self._parked: _Parked | None = None
        self._told_state = "up"

    @property
    def state(self) -> str:
        """up, down (breaker open), paused, parked or budget_spent."""
        if self._parked is not None:
            return "parked"
        if self._breaker.is_open:
            return "down"
        if self._clock() < self._paused_until_s:
            return "paused"
        return "budget_spent" if self._money.is_spent else "up"

    @property
    def wait_s(self) -> float:
        """How long until it may be asked again; 0 when it may be now. A spent budget waits for midnight: a
        minute."""
        if self._parked is not None:
            return max(0.0, self._parked.probe_at_s - self._clock())
        pause_s = max(0.0, self._paused_until_s - self._clock())
        return max(pause_s, self._breaker.wait_s, REPROBE_S if self._money.is_spent else 0.0)

    @property
    def stats(self) -> ProviderStats:
        return stats_of(self.name, self.state, self._tally)

    async def ask(self, request: Request) -> Outcome:
        """One outcome. UNAVAILABLE where it wasn't asked; the deadline runs from when its turn came."""
        if (refusal := self._refusal()) is not None:
            return refusal
        came_s = self._clock()
        async with self._slots.all() if request.event_id in self._suspects else self._slots.one():
            if (refusal := self._refusal() or await self._still_parked()) is not None:
                return refusal
            permit = self._breaker.admit()
            if permit is None:
                return self._unavailable("being tried with another picture")
            outcome = await self._ask_with(permit, request, self._clock() - came_s)
            self._suspect(request.event_id, outcome)
            return outcome

    async def probe(self) -> str:
        """Ask for real, within the deadline, whatever the state; an answer ends a parking. Raises
        ProviderError."""
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                told = await self._provider.probe()
        except TimeoutError as error:
            raise ProviderError(Failure.TIMEOUT, f"no answer within {self.limits.timeout_s:g} s") from error
        self._unpark()
        return told

    def _refusal(self) -> ProviderError | None:
        if self._money.is_spent:
            self._tell_state()
            return self._unavailable("the day's budget is spent")
        if self._parked is not None and (self._parked.probing or self.wait_s > 0):
            return self._unavailable(f"parked: {self._parked.message}")
        if self._clock() < self._paused_until_s:
            return self._unavailable(f"paused for {self.wait_s:.1f} s more")
        if self._breaker.wait_s > 0:
            return self._unavailable(f"left alone for {self._breaker.wait_s:.1f} s more after many failures")
        return None

    def _unavailable(self, message: str) -> ProviderError:
        return ProviderError(Failure.UNAVAILABLE, message, retry_after_s=self.wait_s)

    async def _still_parked(self) -> ProviderError | None:
        """When its time has come, the picture that happens by waits for one probe."""
        if (parked := self._parked) is None:
            return None
        parked.probing = True
        try:
            async with asyncio.timeout(min(PROBE_TIMEOUT_S, self.limits.timeout_s)):
                await self._provider.probe()
        except (ProviderError, TimeoutError):
            parked.probe_at_s = self._clock() + parked.period_s
            return self._unavailable(f"parked: {parked.message}")
        finally:
            parked.probing = False
        self._unpark()
        return None

    def _suspect(self, event_id: UUID, outcome: Outcome) -> None:
        """A picture that the provider died with is asked about alone from now on: the guilty one harms no others."""
        self._suspects.pop(event_id, None)
        if isinstance(outcome, ProviderError) and outcome.advice is Advice.ALONE:
            self._suspects[event_id] = None
            if len(self._suspects) > MAX_SUSPECTS:
                self._suspects.pop(next(iter(self._suspects)))

    def _unpark(self) -> None:
        self._parked = None
        self._bad_requests = 0
        self._tell_state()

    async def _ask_with(self, permit: Permit, request: Request, waited_s: float) -> Outcome:
        started_s = self._clock()
        try:
            with self._tally.in_flight():
                outcome = await self._bounded(request)
        except BaseException:  # cancelled, or a bug: the permit must not be lost with it
            self._breaker.give_back(permit)
            raise
        duration_s = self._clock() - started_s
        self._tally.count(outcome, duration_s)
        self._measure(self.name, waited_s, duration_s)
        self._money.spend(self._cost_usd(outcome))
        self._learn(permit, outcome, duration_s)
        self._tell_state()
        return outcome

    async def _bounded(self, request: Request) -> Outcome:
        try:
            async with asyncio.timeout(self.limits.timeout_s):
                (outcome,) = await self._provider.analyze([request])
                return outcome
        except TimeoutError:
            return ProviderError(Failure.TIMEOUT, f"no answer within {self.limits.timeout_s:g} s")

    def _cost_usd(self, outcome: Outcome) -> float:
        if isinstance(outcome, ProviderError):
            return self.limits.assumed_usd if outcome.failure in _BILLED else 0.0
        return self.limits.assumed_usd if outcome.cost_usd is None else outcome.cost_usd

    def _learn(self, permit: Permit, outcome: Outcome, duration_s: float) -> None:
        advice = None if isinstance(outcome, Analysis) else outcome.advice
        is_bad_request = isinstance(outcome, ProviderError) and outcome.failure is Failure.BAD_REQUEST
        self._bad_requests = self._bad_requests + 1 if is_bad_request else 0
        match advice:
            case None | Advice.ITEM:
                self._pauses = 0
                self._breaker.record(permit, good=duration_s <= SLOW_SHARE * self.limits.timeout_s)
            case Advice.PAUSE:
                self._breaker.give_back(permit)
                self._pause(outcome)
            case Advice.PARK:
                self._breaker.give_back(permit)
                self._park(outcome)
            case _:
                self._breaker.record(permit, good=False)
        if self._bad_requests > MAX_BAD_REQUESTS:
            self._park(outcome)

    def _pause(self, outcome: Outcome) -> None:
        told_s = outcome.retry_after_s if isinstance(outcome, ProviderError) else None
        own_s = min(FIRST_PAUSE_S * 2**self._pauses, MAX_PAUSE_S)
        self._pauses += 1
        until_s = self._clock() + (own_s if told_s is None else told_s)
        self._paused_until_s = max(self._paused_until_s, until_s)

    def _park(self, outcome: Outcome) -> None:
        assert isinstance(outcome, ProviderError)
        period_s = REPROBE_AUTH_S if outcome.failure is Failure.AUTH else REPROBE_S
        self._parked = _Parked(str(outcome), period_s, self._clock() + period_s)

    def _tell_state(self) -> None:
        """One line in the log when the state is another than the last one told."""
        if (state := self.state) == self._told_state:
            return
        self._told_state = state
        if state == "up":
            log.info("provider.up", provider=self.name)
        elif state == "parked" and self._parked is not None:
            log.error("provider.parked", provider=self.name, reason=self._parked.message)
        else:
            log.warning(f"provider.{state}", provider=self.name, retry_s=round(self.wait_s, 1))
