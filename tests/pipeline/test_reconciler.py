"""What memory loses, the journal gives back. Each test loses something that the code itself never would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from structlog.testing import capture_logs

from pipeline.events import Event, EventOutcome, Priority
from pipeline.intake import Intake
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.journal_file import Ending
from pipeline.queue import EventQueue, QueueSettings
from pipeline.reconciler import Reconciler
from pipeline.worker import Retries, WorkerSettings
from providers.base import Failure, ProviderError
from tests.pipeline.makers import COUNT, an_event


@dataclass
class Box:
    journal: Journal
    queue: EventQueue
    retries: Retries
    intake: Intake
    reconciler: Reconciler

    async def accept(self, priority: Priority = Priority.MEDIUM) -> Event:
        await self.intake.event(event := an_event(priority))
        return event

    async def look_twice(self) -> list[str]:
        """What it logged."""
        with capture_logs() as logs:
            await self.reconciler.look()
            await self.reconciler.look()
        return [log["event"] for log in logs]


@asynccontextmanager
async def a_box(folder: Path, limit: int = 5) -> AsyncIterator[Box]:
    async with open_journal(folder, JournalSettings()) as journal:
        queue = EventQueue(QueueSettings(limit=limit))
        retries = Retries(queue, WorkerSettings(retry_first_s=60.0))
        intake = Intake(journal, queue, lambda _: (COUNT,))
        yield Box(journal, queue, retries, intake, Reconciler(journal, queue, retries, intake))
        retries.cancel()


async def test_an_event_that_the_queue_lost_waits_again_and_it_is_said_once(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        lost, kept = await box.accept(Priority.HIGH), await box.accept()
        box.queue.discard(lost.id)
        assert await box.look_twice() == ["queue.reconciled"]
        assert await box.queue.take(9, linger_s=0) == [lost.id, kept.id]
        assert box.reconciler.put_back == 1
        assert box.intake.open.count == 2


async def test_one_look_is_not_enough_to_call_an_event_lost(tmp_path: Path) -> None:
    """So that what is on its way between two places at that moment is left alone."""
    async with a_box(tmp_path) as box:
        lost = await box.accept()
        box.queue.discard(lost.id)
        await box.reconciler.look()
        assert len(box.queue) == 0
        box.queue.put_back(lost.id, lost.priority, 0.0)  # it was on its way
        assert await box.look_twice() == []


async def test_an_event_that_the_journal_took_in_while_its_camera_was_stopped_is_found(tmp_path: Path) -> None:
    """The task was cancelled between the commit and the queue."""
    async with a_box(tmp_path) as box:
        await box.journal.accept(event := an_event())
        assert await box.look_twice() == ["queue.reconciled"]
        assert event.id in box.queue
        box.intake.open.end([event.id])
        assert await box.intake.open.wait_none(patience_s=1)


async def test_what_a_worker_left_behind_is_given_back_without_an_attempt_and_then_put_back(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        event = await box.accept()
        await box.journal.lease(await box.queue.take(1, linger_s=0))
        assert await box.look_twice() == ["queue.reconciled"]
        assert await box.look_twice() == ["queue.reconciled"]
        [leased] = await box.journal.lease(await box.queue.take(1, linger_s=0))
        assert (leased.event.id, leased.attempts) == (event.id, 1)


async def test_what_waits_rests_or_is_in_a_workers_hands_is_left_alone(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        for _ in range(4):
            await box.accept()
        [rests] = await box.journal.lease(await box.queue.take(1, linger_s=0))
        await box.journal.release([rests.event.id])
        box.retries.later(rests, ProviderError(Failure.TIMEOUT, "told to"))
        asked, taken = await box.queue.take(2, linger_s=0)
        await box.journal.lease([asked])
        with box.intake.open.hold([asked, taken]):
            assert await box.look_twice() == []
            assert len(box.queue) == 1


async def test_a_retry_whose_timer_is_gone_comes_back(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        await box.accept()
        [rests] = await box.journal.lease(await box.queue.take(1, linger_s=0))
        await box.journal.release([rests.event.id])
        box.retries.later(rests, ProviderError(Failure.TIMEOUT, "told to"))
        box.retries.cancel()
        assert await box.look_twice() == ["queue.reconciled"]
        assert rests.event.id in box.queue


async def test_what_comes_back_to_a_full_queue_pushes_nobody_out(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        lost = await box.accept()
        box.queue.discard(lost.id)
        for _ in range(5):
            await box.accept()
        await box.look_twice()
        assert len(box.queue) == 6


async def test_what_ended_meanwhile_stays_ended(tmp_path: Path) -> None:
    async with a_box(tmp_path) as box:
        lost = await box.accept()
        box.queue.discard(lost.id)
        await box.reconciler.look()
        await box.journal.finish([Ending(lost.id, EventOutcome.EXPIRED, "")])
        assert await box.look_twice() == []
        assert len(box.queue) == 0


async def test_it_looks_again_and_again_while_events_come_are_taken_and_end(tmp_path: Path) -> None:
    """Whatever is on its way while it looks: nothing is put back that was not lost, and all that was lost is."""
    async with a_box(tmp_path, limit=1000) as box:
        lost: set[UUID] = set()
        ended: set[UUID] = set()

        async def accept() -> None:
            for number in range(300):
                event = await box.accept()
                if number % 10 == 0:
                    box.queue.discard(event.id)
                    lost.add(event.id)

        async def work() -> None:
            while ids := await box.queue.take(3, linger_s=0):
                with box.intake.open.hold(ids):
                    leased = await box.journal.lease(ids)
                    await box.journal.finish([Ending(each.event.id, EventOutcome.DONE, "") for each in leased])
                    box.intake.open.end(ids)
                    ended.update(each.event.id for each in leased)

        looking = asyncio.create_task(box.reconciler.run(every_s=0))
        workers = [asyncio.create_task(work()) for _ in range(3)]
        await accept()
        assert await box.intake.open.wait_none(patience_s=20)
        box.queue.close()
        await asyncio.gather(*workers)
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        assert lost <= ended
        assert await box.journal.waiting() == []
        assert box.reconciler.put_back == len(lost)
