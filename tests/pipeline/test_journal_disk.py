"""Cases 19 and 21: the journal on a disk of 24 MB that somebody else fills up, at any moment, and frees again.

The disk is a file system in memory, mounted in a name space of its own, in which a child process runs the test.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from pipeline import journal_writer
from pipeline.events import EventOutcome, Gap, Priority
from pipeline.identity import fresh_id
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.journal_errors import JournalError, JournalFullError
from pipeline.journal_file import Ending
from pipeline.journal_reserve import DiskReserve
from tests.pipeline.makers import NOW, an_analysis, an_event

DISK_MB = 24
SETTINGS = JournalSettings(quota_mb=16, reserve_mb=6, floor_mb=2)
ON_A_SMALL_DISK: dict[str, Callable[[Path], Awaitable[None]]] = {}


def small_disk(
    options: str = f"size={DISK_MB}m",
) -> Callable[[Callable[[Path], Awaitable[None]]], Callable[[Path], None]]:
    """The test's body runs in a child, on a disk of its own. Skips where nothing can be mounted."""

    def decorate(body: Callable[[Path], Awaitable[None]]) -> Callable[[Path], None]:
        ON_A_SMALL_DISK[body.__name__] = body

        def test(tmp_path: Path) -> None:
            code = f"from tests.pipeline.test_journal_disk import child; child({body.__name__!r}, {str(tmp_path)!r})"
            mount = f"mount -t tmpfs -o {options},mode=0700 tmpfs {tmp_path}"
            command = ["unshare", "-Urm", "sh", "-c", f'{mount} || exit 77; exec "$0" -c "$1"', sys.executable, code]
            ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
            if ran.returncode == 77:
                pytest.skip(f"no file system can be mounted here: {ran.stderr.strip()}")
            assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-6000:]

        test.__name__, test.__doc__ = body.__name__, body.__doc__
        return test

    return decorate


def child(name: str, folder: str) -> None:
    journal_writer.QUIET_S = journal_writer.RETRY_S = 0.05
    asyncio.run(asyncio.wait_for(_run(ON_A_SMALL_DISK[name], Path(folder)), 100))


async def _run(body: Callable[[Path], Awaitable[None]], folder: Path) -> None:
    await body(folder)


class Filler:
    """Somebody else's file, which takes all there is."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "somebody-elses"

    def fill(self, leave_bytes: int = 0) -> None:
        with suppress(OSError), self._file.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        if leave_bytes:
            with self._file.open("ab") as file:
                file.truncate(max(0, file.tell() - leave_bytes))

    def free(self) -> None:
        self._file.unlink(missing_ok=True)


@asynccontextmanager
async def a_journal(folder: Path, settings: JournalSettings = SETTINGS) -> AsyncIterator[Journal]:
    async with open_journal(folder / "state", settings) as journal:
        yield journal


async def with_reserve(folder: Path) -> None:
    await until(lambda: (folder / "state" / "reserve").exists())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - another thread's work, or the disk's
            await asyncio.sleep(0.01)


async def everything_in(journal: Journal) -> tuple[set[UUID], dict[UUID, str]]:
    """The open events, and how the others ended."""
    waiting = {each.id for each in await journal.waiting()} | set(await journal.leased())
    rows = [json.loads(row.body) for row in await journal.outbox(10**6, 10**9) if row.table == "outcomes"]
    return waiting, {UUID(row["event_id"]): row["outcome"] for row in rows}


@small_disk()
async def test_what_waits_can_be_sent_and_ended_on_a_disk_without_a_single_free_byte(folder: Path) -> None:
    events = [an_event(jpeg=b"x" * 100_000) for _ in range(60)]
    async with a_journal(folder) as journal:
        await with_reserve(folder)
        for event in events:
            await journal.accept(event)
    async with a_journal(folder) as journal:  # its log is as small as can be
        leased = await journal.lease([event.id for event in events[:8]])
        with capture_logs() as logs:
            Filler(folder).fill()
            endings = [Ending(each.event.id, EventOutcome.DONE, "", an_analysis(each.event.id)) for each in leased[:4]]
            assert await journal.finish(endings) == [True] * 4
            await journal.release([each.event.id for each in leased[4:]])
            sent = 0
            while rows := await journal.outbox(10, 10**6):
                await journal.uploaded([row.seq for row in rows])
                sent += len(rows)
            for event in events[4:]:
                await journal.finish([Ending(event.id, EventOutcome.EXPIRED, "")])
        assert sent >= len(events) + 8
        assert (await journal.counts())["waiting"] == 0
    assert [log["event"] for log in logs].count("journal.disk_full") == 1


@small_disk()
async def test_a_full_disk_sheds_the_least_urgent_with_rows_and_recovers_unaided(folder: Path) -> None:
    filler = Filler(folder)
    with capture_logs() as logs:
        async with a_journal(folder) as journal:
            await with_reserve(folder)
            low = [an_event(Priority.LOW, jpeg=b"x" * 100_000) for _ in range(30)]
            for event in low:
                await journal.accept(event)
            filler.fill()
            urgent = [an_event(Priority.CRITICAL, jpeg=b"x" * 100_000) for _ in range(20)]
            accepted = [await journal.accept(event) for event in urgent]
            assert all(each.new for each in accepted)
            shed = [event_id for each in accepted for event_id in each.shed]
            assert shed == [event.id for event in low[: len(shed)]]
            assert len(shed) >= len(urgent) // 2
            waiting, ended = await everything_in(journal)
            assert waiting == {event.id for event in (*low, *urgent)} - set(shed)
            assert ended == dict.fromkeys(shed, EventOutcome.SHED)
            assert not (folder / "state" / "reserve").exists()
            filler.free()
            await until(lambda: any(log["event"] == "journal.disk_ok" for log in logs))
            await with_reserve(folder)
            late = an_event(Priority.LOW, jpeg=b"x" * 100_000)
            assert (await journal.accept(late)).shed == ()
            alarms = [json.loads(row.body) for row in await journal.outbox(10**6, 10**9) if row.table == "alarms"]
    assert [alarm["kind"] for alarm in alarms] == ["disk_full"]
    told = [log["event"] for log in logs if log["event"].startswith("journal.disk")]
    assert told == ["journal.disk_full", "journal.disk_ok"]


@small_disk()
async def test_below_the_floor_the_journal_does_not_grow_and_leaves_the_rest_to_others(folder: Path) -> None:
    filler = Filler(folder)
    async with a_journal(folder, JournalSettings(quota_mb=16, reserve_mb=2, floor_mb=6)) as journal:
        await with_reserve(folder)
        for _ in range(20):
            await journal.accept(an_event(Priority.LOW, jpeg=b"x" * 100_000))
        filler.fill(leave_bytes=5 * 2**20)
        size = (folder / "state" / "journal.db").stat().st_size
        with capture_logs() as logs:
            accepted = [await journal.accept(an_event(Priority.HIGH, jpeg=b"x" * 100_000)) for _ in range(15)]
            small = await journal.accept(an_event(Priority.LOW, jpeg=b"x" * 3_000_000))
        assert all(each.new and each.shed for each in accepted[2:])
        assert not small.new
        assert (folder / "state" / "reserve").exists()
        assert (folder / "state" / "journal.db").stat().st_size <= size + 2**20
        assert [log["event"] for log in logs if "disk" in log["event"]] == ["journal.disk_full"]
        filler.free()
        assert (await journal.accept(an_event(Priority.LOW, jpeg=b"x" * 100_000))).new


@small_disk()
async def test_whenever_the_disk_is_filled_and_freed_no_event_that_was_accepted_is_lost(folder: Path) -> None:
    """Cameras, a worker and an uploader at work; the disk is filled fifty times, between any two commands."""
    random, filler, filled = Random(5), Filler(folder), 0
    accepted: set[UUID] = set()
    outcomes: dict[UUID, str] = {}
    stop = asyncio.Event()

    async def camera(journal: Journal) -> None:
        while not stop.is_set():
            event = an_event(random.choice(list(Priority)), jpeg=b"x" * random.randrange(300_000))
            try:
                await journal.accept(event)
                accepted.add(event.id)
            except JournalFullError:
                await asyncio.sleep(0)
            with suppress(JournalFullError):
                await journal.record_gap(Gap(fresh_id(), "test", "yard", NOW, NOW, "test"))

    async def worker(journal: Journal) -> None:
        while not stop.is_set():
            waiting = await journal.waiting()
            leased = await journal.lease([each.id for each in waiting[: random.randrange(4)]])
            await journal.release([each.event.id for each in leased[1:]])
            await journal.finish(
                [Ending(each.event.id, EventOutcome.DONE, "", an_analysis(each.event.id)) for each in leased[:1]]
            )

    async def upload(journal: Journal) -> None:
        rows = await journal.outbox(20, 10**6)
        for row in rows:
            if row.table == "outcomes":
                outcome = json.loads(row.body)
                assert UUID(outcome["event_id"]) not in outcomes
                outcomes[UUID(outcome["event_id"])] = outcome["outcome"]
        await journal.uploaded([row.seq for row in rows])

    async def uploader(journal: Journal) -> None:
        while not stop.is_set():
            await upload(journal)

    def was_full() -> bool:
        return "journal.disk_full" in [log["event"] for log in logs]

    with capture_logs() as logs:
        async with a_journal(folder) as journal:
            await with_reserve(folder)
            async with asyncio.TaskGroup() as group:
                for job in (camera, camera, worker, uploader):
                    group.create_task(job(journal))
                while filled < 50 or len(accepted) <= 20 or not was_full():  # on a machine that is busy, more often
                    await asyncio.sleep(random.random() * 0.02)
                    filler.fill(leave_bytes=random.choice((0, 0, 300_000, 5_000_000)))
                    await asyncio.sleep(random.random() * 0.05)
                    filler.free()
                    filled += 1
                stop.set()
            assert (await journal.accept(an_event(Priority.CRITICAL))).new  # another may have to be shed for it
            while await journal.outbox(1, 1):
                await upload(journal)
            waiting = {each.id for each in await journal.waiting()} | set(await journal.leased())
    assert accepted <= waiting | set(outcomes)
    assert not waiting & set(outcomes)


@small_disk()
async def test_a_start_on_a_full_disk_gives_the_reserve_up_and_goes_on(folder: Path) -> None:
    events = [an_event() for _ in range(5)]
    async with a_journal(folder) as journal:
        await with_reserve(folder)
        for event in events:
            await journal.accept(event)
        await journal.lease([events[0].id])
    filler = Filler(folder)
    filler.fill()
    async with a_journal(folder) as journal:
        assert [each.id for each in await journal.recover()] == [event.id for event in events]
        assert not (folder / "state" / "reserve").exists()
        await journal.finish([Ending(event.id, EventOutcome.EXPIRED, "") for event in events])
        filler.free()
        await with_reserve(folder)


@small_disk()
async def test_without_any_room_what_drains_waits_and_is_not_owed_and_what_is_new_is_refused(folder: Path) -> None:
    """Not even a reserve: somebody else has taken it as soon as it was given up."""
    settings = JournalSettings(quota_mb=16, reserve_mb=0, floor_mb=0)
    filler = Filler(folder)
    async with a_journal(folder, settings) as journal:
        events = [an_event(jpeg=b"x" * 1000) for _ in range(400)]
        await asyncio.gather(*(journal.accept(event) for event in events))
    async with a_journal(folder, settings) as journal:  # its log is as small as can be
        filler.fill()
        with pytest.raises(JournalFullError):
            await journal.accept(an_event(jpeg=b"x" * 900_000))
        finishing = asyncio.ensure_future(
            journal.finish([Ending(event.id, EventOutcome.EXPIRED, "") for event in events])
        )
        await until(lambda: journal._writer._waiting_for_room)
        await until(lambda: journal.oldest_command_s() == 0.0)
        assert len(await journal.waiting()) == len(events)
        assert not finishing.done()
        filler.free()
        assert await asyncio.wait_for(finishing, 30) == [True] * len(events)


@small_disk()
async def test_what_waits_for_room_at_the_end_fails_and_is_there_at_the_next_start(folder: Path) -> None:
    settings = JournalSettings(quota_mb=16, reserve_mb=0, floor_mb=0)
    filler = Filler(folder)
    events = [an_event(jpeg=b"x" * 1000) for _ in range(400)]
    async with a_journal(folder, settings) as journal:
        await asyncio.gather(*(journal.accept(event) for event in events))
    async with a_journal(folder, settings) as journal:
        filler.fill()
        finishing = asyncio.ensure_future(
            journal.finish([Ending(event.id, EventOutcome.EXPIRED, "") for event in events])
        )
        await until(lambda: journal._writer._waiting_for_room)
    with pytest.raises(JournalError, match="closed"):
        await finishing
    filler.free()
    async with a_journal(folder, settings) as journal:
        assert len(await journal.recover()) == len(events)


@small_disk()
async def test_a_new_journal_on_a_full_disk_is_a_clear_line(folder: Path) -> None:
    (folder / "state").mkdir(0o700)
    (folder / "state" / "lock").touch()
    (folder / "state" / "journal.db").touch(0o600)
    Filler(folder).fill()
    with pytest.raises(JournalError, match=r"journal\.db: database or disk is full"):
        async with a_journal(folder):
            pass


@small_disk()
async def test_a_damaged_journal_on_a_full_disk_waits_for_room_and_loses_nothing(folder: Path) -> None:
    events = [an_event(jpeg=b"x" * 200_000) for _ in range(50)]
    async with a_journal(folder, JournalSettings(quota_mb=16, reserve_mb=0, floor_mb=0)) as journal:
        for event in events:
            await journal.accept(event)
    with (folder / "state" / "journal.db").open("r+b") as file:
        file.write(b"nothing")
    filler = Filler(folder)
    filler.fill()
    with pytest.raises(JournalError, match="found no other place"):
        async with a_journal(folder):
            pass
    filler.free()
    async with a_journal(folder) as journal:
        assert [each.id for each in await journal.recover()] == [event.id for event in events]


@small_disk(f"size={DISK_MB}m,nr_inodes=8")
async def test_a_disk_without_room_for_another_name_disturbs_only_who_starts(folder: Path) -> None:
    """Case 21."""

    def use_up() -> None:
        with suppress(OSError):
            for number in range(100):
                (folder / f"name-{number}").touch()

    async with a_journal(folder, JournalSettings(quota_mb=16, reserve_mb=1, floor_mb=0)) as journal:
        use_up()
        for _ in range(20):
            event = an_event(jpeg=b"x" * 50_000)
            await journal.accept(event)
            await journal.finish([Ending(event.id, EventOutcome.DONE, "")])
        while rows := await journal.outbox(50, 10**6):
            await journal.uploaded([row.seq for row in rows])
        await journal.accept(kept := an_event())
        (folder / "name-0").unlink()
        await with_reserve(folder)
        (folder / "state" / "reserve").unlink()
        use_up()
    use_up()
    with pytest.raises(JournalError, match="unable to open database file"):  # no room for the name of the log
        async with a_journal(folder) as journal:
            await journal.accept(an_event())
    (folder / "name-0").unlink()
    async with a_journal(folder) as journal:
        assert [each.id for each in await journal.recover()] == [kept.id]


def test_a_reserve_that_somebody_else_was_quicker_than_is_not_there_and_not_half_there(tmp_path: Path) -> None:
    (tmp_path / "reserve").mkdir()
    reserve = DiskReserve(tmp_path / "nowhere", 2**20, 0)
    assert not reserve.is_whole
    with pytest.raises(FileNotFoundError):
        reserve.make()
    huge = DiskReserve(tmp_path, 2**62, -(2**63))
    (tmp_path / "reserve").rmdir()
    assert not huge.make()
    assert not (tmp_path / "reserve").exists()


def test_a_reserve_of_nothing_is_always_whole(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path, 0, 0)
    assert reserve.is_whole
    assert reserve.make()
    assert not reserve.give_up()


def test_where_there_is_no_room_above_the_floor_no_reserve_is_made(tmp_path: Path) -> None:
    reserve = DiskReserve(tmp_path, 2**20, 2**62)
    assert not reserve.make()
    assert list(tmp_path.iterdir()) == []
