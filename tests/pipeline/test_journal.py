import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from pipeline.clock import Clock
from pipeline.events import Event, EventOutcome, Gap, Priority
from pipeline.identity import fresh_id
from pipeline.journal import Accepted, Journal, JournalSettings, open_journal
from pipeline.journal_file import Ending, Waiting
from pipeline.journal_schema import JournalError
from tests.pipeline.makers import NOW, an_analysis, an_event


async def rows(journal: Journal) -> list[tuple[str, dict[str, Any]]]:
    return [(row.table, json.loads(row.body)) for row in await journal.outbox(1000, 10**9)]


def with_journal(path: Path, **settings: Any) -> Any:
    return open_journal(path, JournalSettings(**settings))


async def test_an_accepted_event_is_on_the_disk_and_comes_back_after_a_restart(tmp_path: Path) -> None:
    event = an_event(Priority.HIGH)
    async with with_journal(tmp_path) as journal:
        assert (await journal.accept(event)).new
    async with with_journal(tmp_path) as journal:
        [waiting] = await journal.recover()
        assert (waiting.id, waiting.priority) == (event.id, Priority.HIGH)
        [leased] = await journal.lease([event.id])
        assert leased.event == event
        assert leased.attempts == 1


async def test_what_a_worker_had_when_the_daemon_died_is_waiting_again_and_its_attempts_are_kept(
    tmp_path: Path,
) -> None:
    event = an_event()
    async with with_journal(tmp_path) as journal:
        await journal.accept(event)
        assert len(await journal.lease([event.id])) == 1
        assert await journal.lease([event.id]) == []
    async with with_journal(tmp_path) as journal:
        await journal.recover()
        [leased] = await journal.lease([event.id], suspects=True)
        assert leased.attempts == 2


async def died_with_in_hand(path: Path, event: Event, clock: Clock) -> list[Waiting]:
    """What waits after a start that follows a death."""
    async with open_journal(path, JournalSettings(), clock) as journal:
        if not (await journal.waiting()):
            await journal.accept(event)
        await journal.lease([event.id], suspects=True)
    async with open_journal(path, JournalSettings(), clock) as journal:
        return await journal.recover()


async def test_an_event_with_which_the_daemon_died_is_a_suspect_and_the_second_time_it_has_failed(
    tmp_path: Path,
) -> None:
    event, other = an_event(), an_event()
    clock = Clock()
    assert [each.id for each in await died_with_in_hand(tmp_path, event, clock)] == [event.id]
    async with open_journal(tmp_path, JournalSettings(), clock) as journal:
        await journal.accept(other)
        assert await journal.suspects([other.id, event.id]) == [event.id]
        assert [leased.event for leased in await journal.lease([event.id, other.id])] == [other]
        await journal.release([], [other.id])
    with capture_logs() as logs:
        assert [each.id for each in await died_with_in_hand(tmp_path, event, clock)] == [other.id]
    assert [log["event_id"] for log in logs if log["event"] == "event.quarantined"] == [str(event.id)]
    async with open_journal(tmp_path, JournalSettings(), clock) as journal:
        [outcome] = [row for table, row in await rows(journal) if table == "outcomes"]
        assert (outcome["event_id"], outcome["outcome"]) == (str(event.id), "failed")
        assert outcome["reason"].startswith("quarantined: the daemon died twice")


async def test_a_power_cut_is_not_the_fault_of_the_event_that_was_being_asked_about(tmp_path: Path) -> None:
    event = an_event()
    for boot in range(5):
        async with open_journal(tmp_path, JournalSettings(), BootClock(f"boot {boot}", 100, 10_000)) as journal:
            if boot == 0:
                await journal.accept(event)
            await journal.recover()
            assert await journal.suspects([event.id]) == []
            [leased] = await journal.lease([event.id])
    assert leased.attempts == 5


async def test_a_recording_that_is_told_again_pushes_nobody_out_of_a_full_journal(tmp_path: Path) -> None:
    async with with_journal(tmp_path, quota_mb=16) as journal:
        told = an_event(jpeg=b"x" * 2_000_000)
        await journal.accept(told, replayed=True)
        while not (await journal.accept(an_event(jpeg=b"x" * 2_000_000))).shed:
            pass
        assert await journal.accept(told, replayed=True) == Accepted(False)


async def test_an_event_ends_once_with_its_rows_in_order_and_without_its_picture(tmp_path: Path) -> None:
    event = an_event()
    async with with_journal(tmp_path) as journal:
        await journal.accept(event)
        ending = Ending(event.id, EventOutcome.DONE, "answered by fake", an_analysis(event.id))
        assert await journal.finish([ending]) == [True]
        assert await journal.finish([ending]) == [False]
        assert [table for table, _ in await rows(journal)] == ["events", "analyses", "outcomes"]
        assert (await journal.counts())["waiting"] == 0
    connection = apsw.Connection(str(tmp_path / "journal.db"))
    assert connection.execute("SELECT count(*) FROM pictures").fetchone() == (0,)


async def test_rows_stay_until_the_database_has_confirmed_them(tmp_path: Path) -> None:
    async with with_journal(tmp_path) as journal:
        await journal.accept(an_event())
        [row] = await journal.outbox(10, 10**6)
    async with with_journal(tmp_path) as journal:
        assert await journal.outbox(10, 10**6) == [row]
        await journal.uploaded([row.seq])
        assert await journal.outbox(10, 10**6) == []


async def test_the_outbox_is_cut_by_rows_and_bytes_but_gives_at_least_one(tmp_path: Path) -> None:
    async with with_journal(tmp_path) as journal:
        for _ in range(5):
            await journal.accept(an_event())
        assert len(await journal.outbox(3, 10**6)) == 3
        assert len(await journal.outbox(5, 1)) == 1


async def test_an_event_that_is_over_at_once_never_waits(tmp_path: Path) -> None:
    async with with_journal(tmp_path) as journal:
        await journal.accept(an_event(), EventOutcome.DONE, "nothing to ask")
        assert [table for table, _ in await rows(journal)] == ["events", "outcomes"]
        assert await journal.recover() == []


async def test_a_recording_tells_each_event_once_even_after_it_has_ended(tmp_path: Path) -> None:
    event = an_event()
    async with with_journal(tmp_path) as journal:
        assert (await journal.accept(event, replayed=True)).new
        await journal.finish([Ending(event.id, EventOutcome.DONE, "")])
        before = await rows(journal)
    async with with_journal(tmp_path) as journal:
        assert not (await journal.accept(event, replayed=True)).new
        assert await rows(journal) == before


async def test_a_refused_row_is_put_aside_and_told_in_a_row_of_its_own(tmp_path: Path) -> None:
    async with with_journal(tmp_path) as journal:
        await journal.accept(an_event())
        [row] = await journal.outbox(1, 10**6)
        await journal.dead_letter(row, "22P05", "unsupported Unicode escape sequence")
        [(table, letter)] = await rows(journal)
        assert (table, letter["table_name"], letter["sqlstate"]) == ("dead_letters", "events", "22P05")
        assert (await journal.counts())["dead_letters"] == 1


async def test_a_row_that_is_gone_is_not_put_aside_and_no_letter_is_about_a_letter(tmp_path: Path) -> None:
    async with with_journal(tmp_path) as journal:
        await journal.accept(an_event())
        [row] = await journal.outbox(1, 10**6)
        await journal.dead_letter(row, "22P05", "")
        await journal.dead_letter(row, "22P05", "")
        [letter] = await journal.outbox(9, 10**6)
        await journal.dead_letter(letter, "22P05", "")
        assert await journal.outbox(9, 10**6) == []
        assert [each.table for each in await journal.dead_letters(9)] == ["events", "dead_letters"]


async def test_dead_letters_go_back_to_the_outbox_by_number_or_all_of_them(tmp_path: Path) -> None:
    async with with_journal(tmp_path) as journal:
        for _ in range(3):
            await journal.accept(an_event())
        sent = await journal.outbox(9, 10**6)
        for row in sent:
            await journal.dead_letter(row, "22P05", "refused")
        first, second, third = await journal.dead_letters(9)
        assert await journal.retry_dead_letters([second.seq, 77]) == 1
        assert await journal.retry_dead_letters([second.seq]) == 0
        assert await journal.retry_dead_letters(None) == 2
        bodies = [row.body for row in await journal.outbox(99, 10**6) if row.table == "events"]
        assert bodies == [second.body, first.body, third.body]
        assert (await journal.counts())["dead_letters"] == 0


async def test_whoever_waits_for_rows_hears_of_the_first(tmp_path: Path) -> None:
    async with with_journal(tmp_path) as journal:
        assert await journal.outbox(9, 10**6) == []
        waiting = asyncio.ensure_future(journal.wait_outbox())
        await asyncio.sleep(0)
        assert not waiting.done()
        await journal.accept(an_event())
        await asyncio.wait_for(waiting, 10)


async def test_the_oldest_event_is_as_old_as_it_is(tmp_path: Path) -> None:
    clock = BootClock("a", 100, 10_000)
    async with open_journal(tmp_path, JournalSettings(), clock) as journal:
        assert await journal.oldest_s() == 0.0
        await journal.accept(an_event())
        clock.boot_s += 5
        await journal.accept(an_event())
        assert await journal.oldest_s() == 5.0


async def test_one_bad_command_leaves_the_others_of_its_commit_alone(tmp_path: Path) -> None:
    event = an_event()
    async with with_journal(tmp_path) as journal:
        results = await asyncio.gather(
            journal.accept(event), journal.accept(event), journal.accept(an_event()), return_exceptions=True
        )
        assert isinstance(results[1], apsw.ConstraintError)
        assert len(await journal.recover()) == 2


async def test_a_full_journal_sheds_the_oldest_of_the_least_urgent_as_a_row(tmp_path: Path) -> None:
    big = b"x" * 500_000
    async with with_journal(tmp_path, quota_mb=16) as journal:
        first = an_event(Priority.LOW, jpeg=big)
        await journal.accept(first)
        kept = an_event(Priority.HIGH, jpeg=big)
        await journal.accept(kept)
        shed = [
            event_id for _ in range(40) for event_id in (await journal.accept(an_event(Priority.LOW, jpeg=big))).shed
        ]
        assert shed[0] == first.id
        assert kept.id in [waiting.id for waiting in await journal.recover()]
        told = [
            row["event_id"] for table, row in await rows(journal) if table == "outcomes" and row["outcome"] == "shed"
        ]
        assert told == [str(event_id) for event_id in shed]


async def test_when_everything_waiting_is_more_urgent_the_new_event_is_the_one_shed(tmp_path: Path) -> None:
    big = b"x" * 2_000_000
    async with with_journal(tmp_path, quota_mb=16) as journal:
        urgent = [an_event(Priority.CRITICAL, jpeg=big) for _ in range(6)]
        for event in urgent:
            await journal.accept(event)
        low = an_event(Priority.LOW, jpeg=b"x" * 8_000_000)
        accepted = await journal.accept(low)
        assert accepted.shed == (low.id,)
        assert not accepted.new
        assert [waiting.id for waiting in await journal.recover()] == [event.id for event in urgent]


async def test_a_second_daemon_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    async with with_journal(tmp_path):
        with pytest.raises(JournalError, match="another lva is running"):
            async with with_journal(tmp_path):
                pass


async def test_somebody_elses_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    other = apsw.Connection(str(tmp_path / "journal.db"))
    other.execute("CREATE TABLE theirs (x); PRAGMA user_version=7")
    other.close()
    with pytest.raises(JournalError, match="is a database of something else"):
        async with with_journal(tmp_path):
            pass
    assert apsw.Connection(str(tmp_path / "journal.db")).execute("SELECT name FROM sqlite_master").fetchall() == [
        ("theirs",)
    ]


async def test_a_gap_is_a_row(tmp_path: Path) -> None:
    async with with_journal(tmp_path) as journal:
        await journal.record_gap(Gap(fresh_id(), "test", "yard", NOW, NOW, "refused"))
        assert [table for table, _ in await rows(journal)] == ["gaps"]


class BootClock(Clock):
    """A machine that can be booted again, with a wall clock that can be set."""

    def __init__(self, boot_id: str, boot_s: float, wall_s: float) -> None:
        self.boot_id, self.boot_s, self.wall_s = boot_id, boot_s, wall_s

    def boot(self) -> float:
        return self.boot_s

    def wall(self) -> float:
        return self.wall_s


@pytest.mark.parametrize(
    ("later", "age_s"),
    [
        (BootClock("a", 150, 1_000_000), 50),  # the wall clock jumped; boot time knows better
        (BootClock("b", 3, 10_060), 60),  # another boot: wall time is all there is
        (BootClock("b", 3, 5_000), 0),  # and if that went backwards, nothing is known
    ],
)
async def test_the_age_of_an_event_survives_clock_jumps_and_reboots(
    tmp_path: Path, later: BootClock, age_s: float
) -> None:
    async with open_journal(tmp_path, JournalSettings(), BootClock("a", 100, 10_000)) as journal:
        await journal.accept(an_event())
    async with open_journal(tmp_path, JournalSettings(), later) as journal:
        [waiting] = await journal.recover()
        assert waiting.age_s == pytest.approx(age_s)


async def test_a_failing_disk_fails_everyone_who_asked_and_the_journal_itself(tmp_path: Path) -> None:
    def broken(_: Event) -> Callable[..., Any]:
        raise apsw.IOError("disk I/O error")

    async with with_journal(tmp_path) as journal:
        with pytest.raises(JournalError):
            await journal._do(lambda file: broken(an_event()))
        with pytest.raises(JournalError):
            await journal.failed


async def test_many_accepts_share_a_commit_and_each_is_durable(tmp_path: Path) -> None:
    events = [an_event() for _ in range(500)]
    async with with_journal(tmp_path) as journal:
        await asyncio.gather(*(journal.accept(event) for event in events))
    async with with_journal(tmp_path) as journal:
        assert [waiting.id for waiting in await journal.recover()] == [event.id for event in events]
