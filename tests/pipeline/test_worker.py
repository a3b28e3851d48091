import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pytest

from pipeline.events import Event, EventOutcome, Priority
from pipeline.intake import Intake
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.journal_file import Ending
from pipeline.queue import EventQueue, QueueSettings, TimeToLive
from pipeline.worker import Asker, Retries, Worker, WorkerSettings, WorkTally
from providers.base import Attempt, Failure, Outcome, ProviderError, Question, Request
from tests.pipeline.makers import COUNT, an_analysis, an_event

Behaviour = Callable[[Request], Outcome]


class Fake:
    """A provider that does as it is told, request by request."""

    name = "fake"

    def __init__(self, behave: Behaviour) -> None:
        self.behave = behave
        self.batches: list[list[Request]] = []

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        self.batches.append(list(requests))
        return [self.behave(request) for request in requests]

    async def probe(self) -> str:
        return "fake"


def answers(request: Request) -> Outcome:
    return an_analysis(request.event_id)


def fails(failure: Failure) -> Behaviour:
    return lambda _request: ProviderError(failure, "told to", attempts=(Attempt("fake", failure, "told to", 1.0),))


@dataclass
class Bench:
    journal: Journal
    queue: EventQueue
    intake: Intake
    provider: Fake
    retries: Retries
    tally: WorkTally
    settings: WorkerSettings

    async def work(self) -> None:
        asker = Asker(self.provider, asked, frozenset({"person"}), "yolo")
        parts = (self.queue, self.journal, asker, self.retries, self.intake.open, self.settings, self.tally)
        await Worker(*parts).work()

    async def drain(self) -> None:
        """Work until every event has an outcome."""
        worker = asyncio.create_task(self.work())
        assert await self.intake.open.wait_none(10)
        self.queue.close()
        await asyncio.wait_for(worker, 10)

    async def outcomes(self) -> dict[str, str]:
        rows = [json.loads(row.body) for row in await self.journal.outbox(1000, 10**9) if row.table == "outcomes"]
        return {row["event_id"]: row["outcome"] for row in rows}


def asked(event: Event) -> tuple[Question, ...]:
    return (COUNT,) if event.jpeg or event.reason == "ask all the same" else ()


@asynccontextmanager
async def a_bench(folder: Path, behave: Behaviour, **settings: object) -> AsyncIterator[Bench]:
    work_settings = WorkerSettings(retry_first_s=0.001, retry_max_s=0.002, linger_s=0, **settings)
    async with open_journal(folder, JournalSettings()) as journal:
        queue = EventQueue(QueueSettings(limit=5, ttl_s=TimeToLive(low=0.001)))
        intake, retries = Intake(journal, queue, asked), Retries(queue, work_settings)
        yield Bench(journal, queue, intake, Fake(behave), retries, WorkTally(), work_settings)


async def test_every_event_is_answered_in_batches_most_urgent_first(tmp_path: Path) -> None:
    async with a_bench(tmp_path, answers, batch_size=2) as bench:
        events = [an_event(priority) for priority in (Priority.MEDIUM, Priority.CRITICAL, Priority.HIGH)]
        for event in events:
            await bench.intake.event(event)
        await bench.drain()
        medium, critical, high = (event.id for event in events)
        assert [[request.event_id for request in batch] for batch in bench.provider.batches] == [
            [critical, high],
            [medium],
        ]
        assert set((await bench.outcomes()).values()) == {"done"}


async def test_a_request_carries_the_picture_what_the_detector_saw_and_how_urgent_it_is(tmp_path: Path) -> None:
    async with a_bench(tmp_path, answers) as bench:
        await bench.intake.event(event := an_event(Priority.HIGH))
        await bench.drain()
        [[request]] = bench.provider.batches
        assert request.urgency == Priority.HIGH
        assert (request.jpeg, request.detections, request.questions) == (event.jpeg, event.detections, (COUNT,))
        assert request.detector_labels == {"person"}


async def test_a_degraded_answer_is_told_as_such(tmp_path: Path) -> None:
    async with a_bench(tmp_path, lambda request: an_analysis(request.event_id, degraded=True)) as bench:
        await bench.intake.event(an_event())
        await bench.drain()
        assert list((await bench.outcomes()).values()) == ["degraded"]


async def test_an_answer_that_is_none_fails_the_event_with_who_was_tried(tmp_path: Path) -> None:
    async with a_bench(tmp_path, fails(Failure.INVALID_OUTPUT)) as bench:
        await bench.intake.event(an_event())
        await bench.drain()
        [row] = [json.loads(row.body) for row in await bench.journal.outbox(9, 10**9) if row.table == "outcomes"]
        assert (row["outcome"], row["reason"]) == ("failed", "fake: invalid_output")


async def test_a_provider_in_trouble_is_asked_again_and_the_event_fails_after_enough_attempts(tmp_path: Path) -> None:
    async with a_bench(tmp_path, fails(Failure.SERVER_ERROR), max_attempts=3) as bench:
        await bench.intake.event(an_event())
        await bench.drain()
        assert len(bench.provider.batches) == 3
        assert list((await bench.outcomes()).values()) == ["failed"]


async def test_while_nobody_can_be_asked_the_event_waits_however_long_it_takes(tmp_path: Path) -> None:
    async with a_bench(tmp_path, answers, max_attempts=2) as bench:
        provider = bench.provider
        provider.behave = lambda request: (
            an_analysis(request.event_id) if len(provider.batches) > 7 else fails(Failure.UNAVAILABLE)(request)
        )
        await bench.intake.event(an_event())
        await bench.drain()
        assert list((await bench.outcomes()).values()) == ["done"]
        assert bench.tally.retries == 7


async def test_one_failed_item_does_not_hold_up_its_batch(tmp_path: Path) -> None:
    bad = an_event()
    behave: Behaviour = lambda request: (  # noqa: E731
        fails(Failure.EMPTY)(request) if request.event_id == bad.id else an_analysis(request.event_id)
    )
    async with a_bench(tmp_path, behave) as bench:
        for event in (good := an_event(), bad):
            await bench.intake.event(event)
        await bench.drain()
        assert await bench.outcomes() == {str(good.id): "done", str(bad.id): "failed"}


async def test_an_event_that_nothing_is_asked_about_is_over_at_once(tmp_path: Path) -> None:
    async with a_bench(tmp_path, answers) as bench:
        await bench.intake.event(an_event(jpeg=b""))
        assert list((await bench.outcomes()).values()) == ["done"]
        assert (len(bench.queue), bench.intake.open.count) == (0, 0)


async def test_an_event_without_its_picture_has_failed_and_says_so(tmp_path: Path) -> None:
    async with a_bench(tmp_path, answers) as bench:
        await bench.intake.event(an_event(jpeg=b"", reason="ask all the same"))
        assert list((await bench.outcomes()).values()) == ["failed"]


async def test_what_a_full_queue_sheds_and_what_expires_ends_as_rows(tmp_path: Path) -> None:
    async with a_bench(tmp_path, answers) as bench:
        low = an_event(Priority.LOW)
        await bench.intake.event(low)
        urgent = [an_event(Priority.HIGH) for _ in range(5)]
        for event in urgent:
            await bench.intake.event(event)
        assert await bench.outcomes() == {str(low.id): EventOutcome.SHED}
        bench.queue.discard(urgent[0].id)
        late = an_event(Priority.LOW)
        await bench.intake.event(late)
        while not bench.intake.tally.ended[EventOutcome.EXPIRED]:
            await bench.intake.expire()
        assert (await bench.outcomes())[str(late.id)] == EventOutcome.EXPIRED
        assert bench.intake.open.count == 5


async def test_after_a_restart_everything_unfinished_goes_on(tmp_path: Path) -> None:
    event = an_event()
    async with a_bench(tmp_path, answers) as bench:
        await bench.intake.event(event)
        await bench.journal.lease([event.id])
    async with a_bench(tmp_path, answers) as bench:
        await bench.intake.resume(await bench.journal.recover())
        await bench.drain()
        assert await bench.outcomes() == {str(event.id): "done"}


async def test_while_nobody_can_be_asked_the_rest_of_the_queue_is_left_alone(tmp_path: Path) -> None:
    async with a_bench(tmp_path, fails(Failure.UNAVAILABLE), batch_size=1) as bench:
        bench.settings = bench.settings.model_copy(update={"retry_first_s": 60.0, "retry_max_s": 60.0})
        for _ in range(5):
            await bench.intake.event(an_event())
        worker = asyncio.create_task(bench.work())
        for _ in range(30):  # the worker's own commits go through the same thread: it has had its turns meanwhile
            await bench.journal.counts()
        assert len(bench.provider.batches) == 1
        bench.retries.cancel()
        worker.cancel()


async def test_an_event_that_comes_back_to_a_full_queue_pushes_nobody_out(tmp_path: Path) -> None:
    async with a_bench(tmp_path, answers) as bench:
        for _ in range(5):
            await bench.intake.event(an_event())
        back = an_event()
        bench.queue.put_back(back.id, back.priority, 0.0)
        assert len(bench.queue) == 6


async def test_a_suspect_is_asked_about_alone_so_that_no_neighbour_is_blamed(tmp_path: Path) -> None:
    """Two workers; the daemon died before with one of the events in hand."""
    asking: list[int] = []
    at_once: dict[UUID, int] = {}

    async def analyze(requests: Sequence[Request]) -> list[Outcome]:
        asking.extend(1 for _ in requests)
        for request in requests:
            at_once[request.event_id] = len(asking)
        for _ in range(20):
            await asyncio.sleep(0)
            for request in requests:
                at_once[request.event_id] = max(at_once[request.event_id], len(asking))
        del asking[: len(requests)]
        return [answers(request) for request in requests]

    suspect = an_event(Priority.HIGH)
    async with a_bench(tmp_path, answers) as bench:
        await bench.intake.event(suspect)
        await bench.journal.lease([suspect.id])
    async with a_bench(tmp_path, answers, batch_size=2) as bench:
        bench.provider.analyze = analyze  # type: ignore[method-assign]
        innocent = [an_event(Priority.HIGH) for _ in range(4)]
        for event in innocent:
            await bench.intake.event(event)
        await bench.intake.resume(await bench.journal.recover())
        workers = [asyncio.create_task(bench.work()) for _ in range(2)]
        assert await bench.intake.open.wait_none(10)
        bench.queue.close()
        await asyncio.gather(*workers)
        assert at_once[suspect.id] == 1
        assert max(at_once[event.id] for event in innocent) > 1
        assert set((await bench.outcomes()).values()) == {"done"}


async def test_a_worker_that_is_cancelled_gives_back_what_it_has_and_that_is_no_attempt_and_no_death(
    tmp_path: Path,
) -> None:
    """Case 51, here: what a stop cuts short is not the event's fault."""
    begun = asyncio.Event()

    async def analyze(requests: Sequence[Request]) -> list[Outcome]:
        begun.set()
        await asyncio.sleep(3600)
        raise AssertionError

    async with a_bench(tmp_path, answers) as bench:
        await bench.intake.event(event := an_event())
        bench.provider.analyze = analyze  # type: ignore[method-assign]
        worker = asyncio.create_task(bench.work())
        await begun.wait()
        worker.cancel()
        await asyncio.wait([worker])
        assert worker.cancelled()
    async with a_bench(tmp_path, answers) as bench:
        await bench.journal.recover()
        [leased] = await bench.journal.lease([event.id])
        assert leased.attempts == 1


async def test_a_worker_that_dies_of_an_error_leaves_what_it_had_under_suspicion(tmp_path: Path) -> None:
    def dies(_: Request) -> Outcome:
        raise ZeroDivisionError

    async with a_bench(tmp_path, dies) as bench:
        await bench.intake.event(event := an_event())
        with pytest.raises(ZeroDivisionError):
            await bench.work()
    async with open_journal(tmp_path, JournalSettings()) as journal:
        await journal.recover()
        assert await journal.suspects([event.id]) == [event.id]


async def test_an_event_that_ended_before_its_turn_came_is_not_waited_for(tmp_path: Path) -> None:
    async with a_bench(tmp_path, answers) as bench:
        await bench.intake.event(gone := an_event())
        await bench.intake.event(an_event())
        await bench.journal.finish([Ending(gone.id, EventOutcome.SHED, "")])
        await bench.drain()
        assert len(bench.provider.batches) == 1
