"""The journal's thread: what it answers, what it does when the disk fails, and what it does when nobody asks."""

import asyncio
import errno
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from pipeline import journal_writer
from pipeline.events import EventOutcome, Priority
from pipeline.journal import JournalSettings, open_journal
from pipeline.journal_errors import JournalError, JournalFullError
from pipeline.journal_file import Ending
from pipeline.journal_reserve import DiskReserve
from tests.pipeline.full_disk import without_room
from tests.pipeline.makers import an_event

_numbers = count(1)


class FailingDisk(apsw.VFS):
    """The operating system's files, of which some calls fail once they are told to."""

    def __init__(self) -> None:
        self.name = f"failing-{next(_numbers)}"
        super().__init__(self.name, base="")
        self.failing: dict[str, int] = {}
        """What fails, and how often it does before it works again: as a kernel reports a lost write only once."""
        self.calls: list[str] = []
        self.full_files: set[str] = set()
        """There is no room for more in these."""
        self.errno = errno.EIO

    def xGetLastError(self) -> tuple[int, str]:  # noqa: N802
        return self.errno, "told to"

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name, as all of these
        return _FailingFile(self, name, flags)

    def called(self, what: str) -> None:
        self.calls.append(what)
        if self.failing.get(what, 0):
            self.failing[what] -= 1
            error = apsw.IOError("told to")
            error.extendedresult = {  # type: ignore[attr-defined]
                "sync": apsw.SQLITE_IOERR_FSYNC, "write": apsw.SQLITE_IOERR_WRITE, "read": apsw.SQLITE_IOERR_READ
            }[what]  # fmt: skip
            raise error


class _FailingFile(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._name = Path(name.filename() if isinstance(name, apsw.URIFilename) else str(name)).name

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.called("sync")
        super().xSync(flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.called("write")
        if self._name in self._disk.full_files:
            if self._disk.errno != errno.EDQUOT:
                raise apsw.FullError("told to")
            error = apsw.IOError("told to")
            error.extendedresult = apsw.SQLITE_IOERR_WRITE  # type: ignore[attr-defined]
            raise error
        super().xWrite(data, offset)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._disk.called("read")
        return super().xRead(amount, offset)


@contextmanager
def a_failing_disk() -> Iterator[FailingDisk]:
    disk = FailingDisk()
    try:
        yield disk
    finally:
        disk.unregister()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # apsw tells of each told error
@pytest.mark.parametrize("what", ["sync", "write"])
async def test_the_first_error_of_the_disk_ends_it_and_nothing_is_written_after(tmp_path: Path, what: str) -> None:
    """Case 22. The next commit would succeed, and prove nothing: so there is none."""
    event, refused = an_event(), an_event()
    with a_failing_disk() as disk:
        async with open_journal(tmp_path, JournalSettings(), vfs=disk.name) as journal:
            await journal.accept(event)
            disk.failing = {what: 1}
            with pytest.raises(JournalError, match="the journal failed"):
                await journal.accept(refused)
            disk.calls.clear()
            with pytest.raises(JournalError, match="the journal failed"):
                await journal.failed
            for later in (journal.accept(an_event()), journal.counts(), journal.finish([]), journal.outbox(1, 1)):
                with pytest.raises(JournalError, match="the journal failed"):
                    await asyncio.wait_for(later, 10)
        assert disk.calls == []
    async with open_journal(tmp_path, JournalSettings()) as journal:
        assert event.id in {waiting.id for waiting in await journal.recover()}
        assert (await journal.accept(an_event())).new


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_error_of_the_disk_while_the_log_is_worked_into_the_file_ends_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 22. SQLite itself would tell nobody; what was acknowledged before is in the log, and comes back from it."""
    monkeypatch.setattr(journal_writer, "CHECKPOINT_PAGES", 30)
    events = [an_event(jpeg=b"x" * 40_000) for _ in range(12)]
    with a_failing_disk() as disk:
        async with open_journal(tmp_path, JournalSettings(), vfs=disk.name) as journal:
            monkeypatch.setattr(journal._writer, "_checkpoint", failing_at_sync(disk, journal._writer._checkpoint))
            accepting = [asyncio.ensure_future(journal.accept(event)) for event in events]
            await asyncio.wait([journal.failed])
            await asyncio.wait(accepting)
            accepted = [event.id for event, done in zip(events, accepting, strict=True) if not done.exception()]
    assert accepted
    async with open_journal(tmp_path, JournalSettings()) as journal:
        assert set(accepted) <= {waiting.id for waiting in await journal.recover()}


def failing_at_sync(disk: FailingDisk, checkpoint: Callable[..., bool]) -> Callable[..., bool]:
    def fail(*arguments: Any) -> bool:
        disk.failing = {"sync": 1}
        return checkpoint(*arguments)

    return fail


async def test_commands_that_were_under_way_or_come_later_fail_and_none_waits_for_ever(tmp_path: Path) -> None:
    """Case 22."""
    go_on = threading.Event()

    def dies(_: Any) -> None:
        go_on.wait(10)
        raise apsw.IOError("disk I/O error")

    async with open_journal(tmp_path, JournalSettings()) as journal:
        first = asyncio.ensure_future(journal._do(dies))
        await asyncio.sleep(0)
        behind = [asyncio.ensure_future(journal.counts()) for _ in range(5)]
        await asyncio.sleep(0)
        assert journal.oldest_command_s() > 0
        go_on.set()
        for each in (first, *behind, *(asyncio.ensure_future(journal.counts()) for _ in range(5))):
            with pytest.raises(JournalError, match="disk I/O error"):
                await asyncio.wait_for(each, 10)
        assert journal.oldest_command_s() == 0.0


async def test_a_bug_in_a_command_ends_it_as_well(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        with pytest.raises(JournalError, match="division"):
            await journal._do(lambda _: 1 / 0)
        with pytest.raises(JournalError):
            await journal.failed


async def test_after_the_end_every_command_fails(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        await journal.accept(an_event())
    with pytest.raises(JournalError, match="closed"):
        await asyncio.wait_for(journal.accept(an_event()), 10)


async def test_what_was_asked_before_the_end_is_done_before_it(tmp_path: Path) -> None:
    events = [an_event() for _ in range(600)]
    async with open_journal(tmp_path, JournalSettings()) as journal:
        accepting = [asyncio.ensure_future(journal.accept(event)) for event in events]
        await asyncio.sleep(0)
    assert all(accepted.new for accepted in await asyncio.gather(*accepting))
    async with open_journal(tmp_path, JournalSettings()) as journal:
        assert len(await journal.recover()) == len(events)


async def test_whoever_asked_and_was_cancelled_does_not_disturb_the_others(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        first, second = asyncio.ensure_future(journal.counts()), asyncio.ensure_future(journal.counts())
        await asyncio.sleep(0)
        first.cancel()
        assert (await second)["waiting"] == 0
        assert journal.oldest_command_s() == 0.0


async def test_a_command_with_a_value_that_is_none_fails_alone(tmp_path: Path) -> None:
    def refuses(_: Any) -> None:
        raise ValueError("no such thing")

    async with open_journal(tmp_path, JournalSettings()) as journal:
        results = await asyncio.gather(journal.accept(an_event()), journal._do(refuses), return_exceptions=True)
        assert isinstance(results[1], ValueError)
        assert len(await journal.waiting()) == 1


async def test_the_log_is_worked_into_the_file_again_and_again_and_does_not_grow_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "CHECKPOINT_PAGES", 50)
    async with open_journal(tmp_path, JournalSettings()) as journal:
        for _ in range(60):
            await journal.accept(an_event(jpeg=b"x" * 50_000))
        await journal.counts()
        assert (tmp_path / "journal.db-wal").stat().st_size < 1_500_000
        assert (tmp_path / "journal.db").stat().st_size > 2_500_000


async def test_a_large_log_is_made_small_when_nobody_asks_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_writer, "QUIET_S", 0.05)
    monkeypatch.setattr(journal_writer, "LARGE_LOG_PAGES", 12)
    log = tmp_path / "journal.db-wal"
    async with open_journal(tmp_path, JournalSettings(reserve_mb=0)) as journal:
        await journal.accept(an_event(jpeg=b"x" * 200_000))
        assert log.stat().st_size > 200_000
        async with asyncio.timeout(10):
            while log.stat().st_size:  # noqa: ASYNC110 - another thread's work
                await asyncio.sleep(0.01)
        assert len(await journal.waiting()) == 1


async def test_a_healthy_journal_that_nobody_asks_does_not_wake_up(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings(reserve_mb=0)) as journal:
        assert journal._writer._patience_s() is None


async def test_the_reserve_is_made_when_there_is_time_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_writer, "QUIET_S", 0.02)
    reserve = tmp_path / "reserve"
    async with open_journal(tmp_path, JournalSettings(reserve_mb=2)):
        async with asyncio.timeout(10):
            while not reserve.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    found = reserve.stat()
    assert (found.st_size, found.st_blocks * 512 >= found.st_size) == (2 * 2**20, True)
    assert found.st_mode & 0o777 == 0o600
    async with open_journal(tmp_path, JournalSettings(reserve_mb=0)) as journal:
        async with asyncio.timeout(10):
            while reserve.exists():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await journal.counts()


async def test_what_makes_room_may_go_beyond_a_quota_that_is_used_up(tmp_path: Path) -> None:
    """A journal full of rows for a database that is away: events can end all the same, and nobody waits."""
    async with open_journal(tmp_path, JournalSettings()) as journal:
        event = an_event()
        await journal.accept(event)
        [leased] = await journal.lease([event.id])
        async with without_room(journal):
            with pytest.raises(JournalFullError):
                await journal.accept(an_event())
            await asyncio.wait_for(journal.release([leased.event.id]), 10)
            reason = "x" * 12_000
            assert await asyncio.wait_for(journal.finish([Ending(event.id, EventOutcome.FAILED, reason)]), 10) == [True]
            await asyncio.wait_for(journal.alarm("test", reason), 10)


async def test_a_quota_that_is_used_up_does_not_stop_a_reader(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        await journal.accept(an_event())
        async with without_room(journal):
            assert (await journal.counts())["waiting"] == 1
            assert len(await journal.outbox(1, 10**6)) == 1


class ADisk:
    """As full as the test says. SQLite finds no room while `without_room` lasts; the free bytes are what is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, free_mb: int = 1000) -> None:
        self.free_mb = free_mb
        monkeypatch.setattr(DiskReserve, "free_bytes", lambda _: self.free_mb * 2**20)
        monkeypatch.setattr(journal_writer, "QUIET_S", 0.02)
        monkeypatch.setattr(journal_writer, "RETRY_S", 0.02)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - another thread's work
            await asyncio.sleep(0.005)


SMALL = JournalSettings(reserve_mb=1, floor_mb=10)


async def test_on_a_full_disk_the_reserve_is_given_up_and_made_again_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Case 19, as told by numbers; `test_journal_disk.py` has the disk itself."""
    disk = ADisk(monkeypatch)
    with capture_logs() as logs:
        async with open_journal(tmp_path, SMALL) as journal:
            await until((tmp_path / "reserve").exists)
            await journal.accept(event := an_event())
            async with without_room(journal):
                disk.free_mb = 0
                with pytest.raises(JournalFullError):
                    await journal.accept(an_event(jpeg=b"x" * 50_000))
                assert not (tmp_path / "reserve").exists()
                waits = asyncio.ensure_future(journal.finish([Ending(event.id, EventOutcome.FAILED, "x" * 16_000)]))
                await until(lambda: journal._writer._waiting_for_room)
                await until(lambda: journal.oldest_command_s() == 0)
                await journal.counts()
                assert not waits.done()
                disk.free_mb = 11
            assert await asyncio.wait_for(waits, 10) == [True]
            await until((tmp_path / "reserve").exists)
            assert "journal.disk_ok" not in [log["event"] for log in logs]
            disk.free_mb = 1000
            await until(lambda: "journal.disk_ok" in [log["event"] for log in logs])
            kinds = [row.table for row in await journal.outbox(99, 10**6)]
    assert kinds.count("alarms") == 1
    assert [log["event"] for log in logs] == ["journal.disk_full", "journal.disk_ok"]


async def test_below_the_floor_an_event_takes_the_room_of_less_urgent_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = ADisk(monkeypatch)
    with capture_logs() as logs:
        async with open_journal(tmp_path, SMALL) as journal:
            await until((tmp_path / "reserve").exists)
            low = [an_event(Priority.LOW, jpeg=b"x" * 50_000) for _ in range(4)]
            for event in low:
                await journal.accept(event)
            disk.free_mb = 9
            accepted = await journal.accept(an_event(Priority.HIGH, jpeg=b"x" * 50_000))
            assert (accepted.new, accepted.shed[0]) == (True, low[0].id)
            assert not (await journal.accept(an_event(Priority.LOW, jpeg=b"x" * 500_000))).new
            assert (tmp_path / "reserve").exists()
            disk.free_mb = 1000
            assert (await journal.accept(an_event(Priority.LOW))).shed == ()
    assert [log["event"] for log in logs].count("journal.disk_full") == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_log_that_finds_no_room_in_the_file_is_worked_in_once_the_reserve_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = ADisk(monkeypatch)
    monkeypatch.setattr(journal_writer, "CHECKPOINT_PAGES", 5)
    with a_failing_disk() as failing:
        async with open_journal(tmp_path, SMALL, vfs=failing.name) as journal:
            await until((tmp_path / "reserve").exists)
            checkpoint = journal._writer._checkpoint

            def no_room_at_first(*arguments: Any) -> bool:
                """While the reserve is there, somebody else has the rest."""
                if (tmp_path / "reserve").exists():
                    disk.free_mb = 0
                    failing.full_files = {"journal.db"}
                else:
                    failing.full_files = set()
                return checkpoint(*arguments)

            monkeypatch.setattr(journal._writer, "_checkpoint", no_room_at_first)
            await journal.accept(an_event(jpeg=b"x" * 100_000))
            await until(lambda: not (tmp_path / "reserve").exists())
            await until(lambda: not journal._writer._log_pages)
            assert len(await journal.waiting()) == 1
            disk.free_mb = 1000


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_disk_quota_that_is_exceeded_is_a_full_disk_and_not_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EDQUOT, which SQLite calls an error of the disk: the system's own word says which it was."""
    disk = ADisk(monkeypatch, free_mb=0)
    with a_failing_disk() as failing:
        async with open_journal(tmp_path, JournalSettings(reserve_mb=0, floor_mb=0), vfs=failing.name) as journal:
            await journal.accept(an_event())
            failing.full_files, failing.errno = {"journal.db-wal"}, errno.EDQUOT
            with pytest.raises(JournalFullError):
                await journal.accept(an_event())
            failing.full_files, disk.free_mb = set(), 1000
            assert (await journal.accept(an_event())).new


async def test_a_journal_that_fails_while_it_is_being_closed_is_closed(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        failing = asyncio.ensure_future(journal._do(lambda _: 1 / 0))
        await asyncio.sleep(0)
    with pytest.raises(JournalError, match="division"):
        await failing
