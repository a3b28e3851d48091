"""The workers: take the most urgent events, ask, and commit how each of them ends."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

import structlog
from pydantic import Field

from pipeline.events import Event, EventOutcome
from pipeline.journal import Journal
from pipeline.journal_file import Ending, Leased
from pipeline.open_events import OpenEvents
from pipeline.progress import Progress
from pipeline.queue import EventQueue
from pipeline.stages import Stages
from providers.base import Analysis, Failure, Outcome, Provider, ProviderError, Question, Request
from providers.settings import Section

log = structlog.get_logger()

WORTH_WAITING_FOR = frozenset(
    {
        Failure.UNAVAILABLE,
        Failure.AUTH,
        Failure.NOT_FOUND,
        Failure.RATE_LIMITED,
        Failure.OVERLOADED,
        Failure.SERVER_ERROR,
        Failure.TIMEOUT,
        Failure.CONNECTION_ERROR,
    }
)
"""Failures of a provider, not of the question: the event waits until somebody can answer, or its time is over."""


class WorkerSettings(Section):
    count: int = Field(2, ge=1, le=64, description="Batches under way at the same time")
    batch_size: int = Field(4, ge=1, le=64, description="Events handed to a provider at once")
    linger_s: float = Field(0.005, ge=0, le=10, description="How long a batch waits to fill up")
    max_attempts: int = Field(3, ge=1, le=1000, description="Times an event may be asked about before it has failed")
    retry_first_s: float = Field(
        2.0, gt=0, description="Pause before an event that nobody could answer is asked again; doubles"
    )
    retry_max_s: float = Field(60.0, gt=0, description="Longest of those pauses")


@dataclass(slots=True)
class WorkTally:
    """Counters since the start."""

    outcomes: Counter[str] = field(default_factory=Counter)
    retries: int = 0


@dataclass(frozen=True, slots=True)
class Asker:
    """What a worker needs to put an event's questions: who answers, what to ask, and what the detector can see."""

    provider: Provider
    questions_for: Callable[[Event], tuple[Question, ...]]
    detector_labels: frozenset[str]
    detector: str

    def request(self, event: Event) -> Request:
        questions = self.questions_for(event)
        return Request(
            event.id,
            event.jpeg,
            questions,
            event.detections,
            self.detector_labels,
            self.detector,
            urgency=event.priority,
        )


class Retries:
    """Events that nobody could answer, each on its way back to the queue after a pause."""

    def __init__(self, queue: EventQueue, settings: WorkerSettings) -> None:
        self._queue = queue
        self._settings = settings
        self._timers: dict[UUID, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._timers)

    def __contains__(self, event_id: UUID) -> bool:
        return event_id in self._timers

    def later(self, leased: Leased, failure: ProviderError) -> None:
        """Keeps the id, not the picture: that comes from the journal again."""
        event_id, priority = leased.event.id, leased.event.priority
        arrived_s = self._queue.now_s() - leased.age_s

        def again() -> None:
            del self._timers[event_id]
            self._queue.put_back(event_id, priority, self._queue.now_s() - arrived_s)

        pause_s = self._pause_s(leased.attempts, failure)
        self._timers[event_id] = asyncio.get_running_loop().call_later(pause_s, again)

    def _pause_s(self, attempts: int, failure: ProviderError) -> float:
        doubled_s = self._settings.retry_first_s * 2.0 ** min(attempts - 1, 30)
        longest_s = max(doubled_s, failure.retry_after_s or 0.0)
        return min(longest_s, self._settings.retry_max_s) * random.uniform(0.5, 1.0)

    def cancel(self) -> None:
        """They stay in the journal for the next start."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()


Undecided = tuple[Leased, ProviderError]


@dataclass(frozen=True, slots=True)
class Worker:
    """Takes events from the queue, a batch at a time. All workers share their parts, but for `progress`."""

    queue: EventQueue
    journal: Journal
    asker: Asker
    retries: Retries
    open_events: OpenEvents
    settings: WorkerSettings
    tally: WorkTally
    stages: Stages = field(default_factory=Stages)
    progress: Progress = field(default_factory=Progress)

    async def work(self) -> None:
        """Until the queue is closed and dry. What it has in hand when it is cancelled waits again, as if nobody had
        been asked; when it dies of an error, the next start counts that against the events."""
        while ids := await self.queue.take(self.settings.batch_size, self.settings.linger_s):
            with self.open_events.hold(ids):
                try:
                    nobody_for = await self._turn(ids)
                except asyncio.CancelledError:
                    await self.journal.release((), ids)
                    raise
            if nobody_for:
                await _rest(self.queue, nobody_for, self.settings)

    async def _turn(self, ids: Sequence[UUID]) -> list[Undecided]:
        """Ask about these events. Returns all of them, if nobody could be asked about any; else none."""
        async with self.open_events.asking.together():
            batch = await self.journal.lease(ids)
            undecided = await self._ask(batch)
        for suspect in await self._not_leased(ids, batch):
            async with self.open_events.asking.alone():
                alone = await self.journal.lease([suspect], suspects=True)
                undecided += await self._ask(alone)
                batch += alone
        not_asked = _not_asked(undecided)
        return not_asked if len(not_asked) == len(batch) else []

    async def _not_leased(self, ids: Sequence[UUID], batch: Sequence[Leased]) -> list[UUID]:
        """The suspects among them. The others have ended before their turn came."""
        left = set(ids) - {leased.event.id for leased in batch}
        suspects = await self.journal.suspects(list(left)) if left else []
        self.open_events.end(left - set(suspects))
        return suspects

    async def _ask(self, batch: Sequence[Leased]) -> list[Undecided]:
        """Ask about them and commit how each of them ends; those that nobody could answer rest, and are returned."""
        if not batch:
            return []
        started = time.monotonic()
        with self.progress.at_work():
            outcomes = await self.asker.provider.analyze([self.asker.request(leased.event) for leased in batch])
        _measure_waits(self.stages, batch, outcomes)
        endings, undecided = _sort_out(batch, outcomes, self.settings.max_attempts)
        await self.journal.finish(endings)
        self.open_events.end(ending.event_id for ending in endings)
        await _give_back(self.journal, undecided)
        for leased, failure in undecided:
            self.retries.later(leased, failure)
        self.tally.retries += len(undecided)
        _tell(endings, batch, self.tally, time.monotonic() - started)
        return undecided


def _measure_waits(stages: Stages, batch: Sequence[Leased], outcomes: Sequence[Outcome]) -> None:
    """Of those that somebody was asked about now for the first time."""
    for leased, outcome in zip(batch, outcomes, strict=True):
        was_asked = isinstance(outcome, Analysis) or outcome.failure is not Failure.UNAVAILABLE
        if was_asked and leased.attempts == 1:
            stages.waited(leased.event.priority, leased.age_s)


async def _give_back(journal: Journal, undecided: Sequence[Undecided]) -> None:
    not_asked = {leased.event.id for leased, _ in _not_asked(undecided)}
    asked = [leased.event.id for leased, _ in undecided if leased.event.id not in not_asked]
    await journal.release(asked, list(not_asked))


def _not_asked(undecided: Sequence[Undecided]) -> list[Undecided]:
    return [each for each in undecided if each[1].failure is Failure.UNAVAILABLE]


async def _rest(queue: EventQueue, not_asked: Sequence[Undecided], settings: WorkerSettings) -> None:
    """Nobody can be asked now: leave the rest in the journal instead of going through it again and again."""
    wanted_s = max(failure.retry_after_s or 0.0 for _, failure in not_asked)
    with suppress(TimeoutError):
        async with asyncio.timeout(min(max(wanted_s, settings.retry_first_s), settings.retry_max_s)):
            await queue.closed.wait()


def _sort_out(
    batch: Sequence[Leased], outcomes: Sequence[Outcome], max_attempts: int
) -> tuple[list[Ending], list[Undecided]]:
    endings: list[Ending] = []
    undecided: list[Undecided] = []
    for leased, outcome in zip(batch, outcomes, strict=True):
        if isinstance(outcome, Analysis):
            how = EventOutcome.DEGRADED if outcome.degraded else EventOutcome.DONE
            endings.append(Ending(leased.event.id, how, f"answered by {outcome.provider}", outcome))
        elif outcome.failure is Failure.UNAVAILABLE or (
            outcome.failure in WORTH_WAITING_FOR and leased.attempts < max_attempts
        ):
            undecided.append((leased, outcome))
        else:
            tried = ", ".join(f"{attempt.provider}: {attempt.failure}" for attempt in outcome.attempts)
            endings.append(Ending(leased.event.id, EventOutcome.FAILED, tried or str(outcome)))
    return endings, undecided


def _tell(endings: Sequence[Ending], batch: Sequence[Leased], tally: WorkTally, seconds: float) -> None:
    events = {leased.event.id: leased for leased in batch}
    for ending in endings:
        leased = events[ending.event_id]
        tally.outcomes[ending.outcome] += 1
        log.info(
            "event.analyzed" if ending.analysis else "event.failed",
            event_id=str(ending.event_id),
            camera=leased.event.camera,
            kind=leased.event.kind,
            priority=leased.event.priority.word,
            outcome=ending.outcome,
            reason=ending.reason,
            provider=ending.analysis.provider if ending.analysis else None,
            waited_ms=round(leased.age_s * 1000),
            duration_ms=round(seconds * 1000),
            batch=len(batch),
        )
