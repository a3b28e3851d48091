"""What a provider did since the start: counters only, for the summary of the minute and the status page."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from providers.base import Analysis, Outcome


@dataclass(slots=True)
class Tally:
    """Counts since the start; whoever wants a minute's worth takes the difference of two."""

    asked: int = 0
    answered: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    usd: float = 0.0
    seconds: float = 0.0
    asking: int = 0
    """Pictures that are being asked about now."""

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        self.asking += 1
        try:
            yield
        finally:
            self.asking -= 1

    def count(self, outcome: Outcome, duration_s: float) -> None:
        self.asked += 1
        self.seconds += duration_s
        if isinstance(outcome, Analysis):
            self.answered += 1
            self.tokens_in += outcome.tokens_in or 0
            self.tokens_out += outcome.tokens_out or 0
            self.usd += outcome.cost_usd or 0.0
        else:
            self.failures[outcome.failure.value] += 1


STATES = ("up", "down", "paused", "parked", "budget_spent")


@dataclass(frozen=True, slots=True)
class ProviderStats:
    """A tally at one moment, with the state."""

    name: str
    state: str
    asked: int
    answered: int
    failures: dict[str, int]
    retries: int
    tokens_in: int
    tokens_out: int
    usd: float
    seconds: float
    asking: int


def stats_of(name: str, state: str, tally: Tally) -> ProviderStats:
    return ProviderStats(
        name=name,
        state=state,
        asked=tally.asked,
        answered=tally.answered,
        failures=dict(tally.failures),
        retries=tally.retries,
        tokens_in=tally.tokens_in,
        tokens_out=tally.tokens_out,
        usd=tally.usd,
        seconds=tally.seconds,
        asking=tally.asking,
    )
