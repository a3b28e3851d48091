import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.events import Event, EventOutcome, Gap, Priority
from pipeline.identity import fresh_id
from pipeline.intake import Intake
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.journal_errors import JournalFullError
from pipeline.open_events import OpenEvents
from pipeline.owed_gaps import OwedGaps
from pipeline.queue import EventQueue, QueueSettings
from tests.pipeline.full_disk import without_room
from tests.pipeline.makers import COUNT, NOW, an_event

BIG = b"x" * 20_000


@asynccontextmanager
async def an_intake(folder: Path, **queue: Any) -> AsyncIterator[tuple[Intake, EventQueue, Journal]]:
    async with open_journal(folder, JournalSettings()) as journal:
        events = EventQueue(QueueSettings(**queue))
        yield Intake(journal, events, lambda event: (COUNT,) if event.label else ()), events, journal


async def rows(journal: Journal, table: str) -> list[dict[str, Any]]:
    return [json.loads(row.body) for row in await journal.outbox(10_000, 10**9) if row.table == table]


async def test_an_event_is_durable_when_the_intake_says_yes(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as (intake, queue, _):
        assert await intake.event(event := an_event())
        assert event.id in queue
        assert intake.open.count == 1
    async with open_journal(tmp_path, JournalSettings()) as journal:
        assert [waiting.id for waiting in await journal.recover()] == [event.id]


async def test_an_event_that_was_told_before_is_durable_too(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as (intake, queue, _):
        event = an_event()
        assert await intake.event(event, replayed=True)
        assert await intake.event(event, replayed=True)
        assert (intake.tally.known, len(queue), intake.open.count) == (1, 1, 1)


async def test_an_event_that_had_to_be_refused_is_told_by_a_gap_once_there_is_room(tmp_path: Path) -> None:
    """Case 19, where not even a row about the event finds room."""
    async with an_intake(tmp_path) as (intake, _, journal):
        with capture_logs() as logs:
            async with without_room(journal):
                yard = [refusable("yard", minute) for minute in range(12)]
                assert [await intake.event(event) for event in yard] == [False] * 12
                assert not await intake.event(refusable("gate", 3))
                await intake.expire()
                assert await rows(journal, "gaps") == []
            assert await intake.event(an_event())
            assert await intake.event(an_event())
        gate, yard_gap = sorted(await rows(journal, "gaps"), key=lambda row: str(row["camera"]))
        assert (gate["camera"], gate["reason"]) == ("gate", "journal full: 1 event refused")
        assert (yard_gap["camera"], yard_gap["reason"]) == ("yard", "journal full: 12 events refused")
        assert (yard_gap["started_at"], yard_gap["ended_at"]) == (
            NOW.isoformat(),
            (NOW + timedelta(minutes=11, seconds=1)).isoformat(),
        )
        assert intake.tally.refused == 13
        assert [log["camera"] for log in logs if log["event"] == "event.refused"] == ["yard", "gate"]
        assert sorted(log["refused"] for log in logs if log["event"] == "events.refused_no_more") == [1, 12]


async def test_where_no_more_events_come_the_gap_is_written_all_the_same(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as (intake, _, journal):
        async with without_room(journal):
            assert not await intake.event(refusable("yard", 0))
        await intake.expire()
        assert [row["camera"] for row in await rows(journal, "gaps")] == ["yard"]


async def test_a_gap_that_finds_no_room_waits_for_it(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as (intake, _, journal):
        gaps = [Gap(fresh_id(), "test", "yard", NOW, NOW, "refused") for _ in range(3)]
        async with without_room(journal):
            for gap in gaps:
                await intake.gap(gap)
            assert await rows(journal, "gaps") == []
        await intake.expire()
        assert [row["gap_id"] for row in await rows(journal, "gaps")] == [str(gap.id) for gap in gaps]
        assert intake.tally.gaps == 3


async def test_what_a_full_journal_sheds_leaves_the_queue_and_is_no_longer_open(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings(quota_mb=16)) as journal:
        queue = EventQueue(QueueSettings())
        intake = Intake(journal, queue, lambda _: (COUNT,))
        with capture_logs() as logs:
            for _ in range(40):
                assert await intake.event(an_event(Priority.LOW, jpeg=b"x" * 600_000))
        shed = {row["event_id"] for row in await rows(journal, "outcomes")}
        assert len(shed) == intake.tally.ended[EventOutcome.SHED] > 0
        waiting = {each.id for each in await journal.waiting()}
        assert len(queue) == len(waiting) == intake.open.count
        assert not {str(event_id) for event_id in waiting} & shed
        assert [log["event"] for log in logs].count("queue.shedding") == 1


async def test_an_event_that_is_itself_the_least_urgent_is_accepted_and_shed_at_once(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings(quota_mb=16)) as journal:
        queue = EventQueue(QueueSettings())
        intake = Intake(journal, queue, lambda _: (COUNT,))
        assert await intake.event(low := an_event(Priority.LOW, jpeg=b"x" * 17_000_000))
        assert [row["event_id"] for row in await rows(journal, "outcomes")] == [str(low.id)]
        assert (len(queue), intake.open.count) == (0, 0)


async def test_a_start_that_finds_nothing_says_nothing(tmp_path: Path) -> None:
    async with an_intake(tmp_path) as (intake, queue, journal):
        with capture_logs() as logs:
            await intake.resume(await journal.recover())
        assert (logs, len(queue)) == ([], 0)


async def test_a_flood_of_the_most_urgent_is_bounded_in_memory_and_each_one_ends_as_a_row(tmp_path: Path) -> None:
    """Case 45: ten thousand at once, all critical; the oldest make room."""
    async with an_intake(tmp_path, limit=100) as (intake, queue, journal):
        low = an_event(Priority.LOW)
        await intake.event(low)
        flood = [an_event(Priority.CRITICAL) for _ in range(10_000)]
        for start in range(0, len(flood), 500):
            await asyncio.gather(*(intake.event(event) for event in flood[start : start + 500]))
            assert len(queue) <= 100
        assert queue._heap.qsize() < 2000  # what was shed does not stay in memory
        waiting = {each.id for each in await journal.waiting()}
        assert len(waiting) == 100 == intake.open.count
        shed = {row["event_id"] for row in await rows_of_all(journal, "outcomes")}
        assert shed == {str(event.id) for event in (low, *flood)} - {str(event_id) for event_id in waiting}


async def rows_of_all(journal: Journal, table: str) -> list[dict[str, Any]]:
    return [json.loads(row.body) for row in await journal.outbox(100_000, 10**9) if row.table == table]


async def test_whoever_waits_until_nothing_is_open_hears_it_when_the_last_one_ends() -> None:
    open_events = OpenEvents()
    first, second = fresh_id(), fresh_id()
    for event_id in (first, second, first):
        open_events.add(event_id)
    assert open_events.count == 2
    waiting = asyncio.create_task(open_events.wait_none(patience_s=60))
    await asyncio.sleep(0)
    open_events.end([])
    open_events.end([first, first, fresh_id()])
    await asyncio.sleep(0)
    assert not waiting.done()
    open_events.end([second])
    assert await asyncio.wait_for(waiting, 10)


async def test_whoever_waits_gives_up_when_none_ends() -> None:
    open_events = OpenEvents()
    open_events.add(fresh_id())
    assert not await open_events.wait_none(patience_s=0.01)


async def test_what_a_worker_holds_is_held_until_it_lets_go_whatever_happens() -> None:
    open_events = OpenEvents()
    event_id = fresh_id()

    def work() -> None:
        with open_events.hold([event_id]):
            assert open_events.held == {event_id}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert not open_events.held


def refusable(camera: str, minute: int) -> Event:
    at = NOW + timedelta(minutes=minute)
    return an_event(camera=camera, captured_at=at, detected_at=at + timedelta(seconds=1), jpeg=BIG)


async def test_gaps_that_find_no_room_again_go_on_waiting_in_their_order() -> None:
    owed = OwedGaps()
    told: list[Gap] = []
    gaps = [Gap(fresh_id(), "test", "yard", NOW, NOW, str(number)) for number in range(3)]
    for gap in gaps:
        owed.later(gap)
    room = 1

    async def record(gap: Gap) -> None:
        if len(told) == room:
            raise JournalFullError
        await owed.settle(record)  # another event comes in the meantime: this is under way already
        told.append(gap)

    await owed.settle(record)
    assert told == gaps[:1]
    room = 3
    await owed.settle(record)
    assert told == gaps
