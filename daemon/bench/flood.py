"""A CRITICAL event's wait for a worker, while LOW events come ten times faster than anyone can answer."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from daemon.bench.figures import Figure, at_most, percentile
from daemon.bench.material import Material
from pipeline.events import Event, EventKind, Priority
from pipeline.identity import fresh_id
from pipeline.intake import Intake
from pipeline.journal import JournalSettings, open_journal
from pipeline.queue import EventQueue, QueueSettings
from pipeline.worker import Asker, Retries, Worker, WorkerSettings, WorkTally
from providers.base import Analysis, Answer, AnswerStatus, Outcome, Question, QuestionKind, Request

SERVICE_S = 0.1
BATCH = 4
FLOOD = 10
SECONDS = 20.0
CRITICAL_EVERY_S = 0.1
QUESTION = Question("people_count", QuestionKind.COUNT, "How many people are visible?", object="person")


class Steady:
    """A provider that takes the same time for every batch, and notes when each event's turn came."""

    name = "steady"

    def __init__(self) -> None:
        self.begun: dict[object, float] = {}
        self.batches: list[float] = []

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        now = time.monotonic()
        self.batches.append(now)
        self.begun.update({request.event_id: now for request in requests})
        await asyncio.sleep(SERVICE_S)
        moment = datetime.now(UTC)
        answers = (Answer(QUESTION, 1, AnswerStatus.OK),)
        return [
            Analysis(one.event_id, "steady", "steady", "1", answers, moment, moment, SERVICE_S * 1000)
            for one in requests
        ]

    async def probe(self) -> str:
        return self.name


async def measure(material: Material) -> AsyncIterator[Figure]:
    waits, batch_s = await _flooded(material.scratch / "flood")
    p50, p99 = percentile(waits, 0.5), percentile(waits, 0.99)
    detail = f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms; a batch of {BATCH} takes {batch_s * 1000:.0f} ms (p99)"
    yield at_most("CRITICAL p99 wait under a 10× flood of LOW, against one batch's time", p99 / batch_s, 1.2, detail)


async def _flooded(folder: Path) -> tuple[list[float], float]:
    """Seconds from the wish to accept to the worker's call, of each CRITICAL event; and how long one batch takes,
    from one call to the next, with all that is committed between them (the 99th percentile as well)."""
    provider, queue = Steady(), EventQueue(QueueSettings(limit=1000))
    settings = WorkerSettings(count=1, batch_size=BATCH)
    async with open_journal(folder, JournalSettings()) as journal:
        intake = Intake(journal, queue, lambda _event: (QUESTION,))
        asker = Asker(provider, lambda _event: (QUESTION,), frozenset(), "")
        retries = Retries(queue, settings)
        async with asyncio.TaskGroup() as group:
            working = Worker(queue, journal, asker, retries, intake.open, settings, WorkTally())
            worker = group.create_task(working.work())
            flood = group.create_task(_low_for_ever(intake))
            accepted = await _critical(intake)
            flood.cancel()
            await asyncio.sleep(2 * SERVICE_S)
            worker.cancel()
    waits = [provider.begun[event_id] - at for event_id, at in accepted.items() if event_id in provider.begun]
    return waits, percentile([later - one for one, later in pairwise(provider.batches)], 0.99)


async def _low_for_ever(intake: Intake) -> None:
    pause_s = SERVICE_S / BATCH / FLOOD
    while True:
        await intake.event(_event(Priority.LOW))
        await asyncio.sleep(pause_s)


async def _critical(intake: Intake) -> dict[object, float]:
    accepted: dict[object, float] = {}
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        await asyncio.sleep(random.expovariate(1 / CRITICAL_EVERY_S))
        event = _event(Priority.CRITICAL)
        accepted[event.id] = time.monotonic()
        await intake.event(event)
    return accepted


def _event(priority: Priority) -> Event:
    now = datetime.now(UTC)
    return Event(
        fresh_id(), "bench", "yard", EventKind.OBJECT_APPEARED, priority, "bench", now, now, jpeg=b"x" * 60_000
    )
