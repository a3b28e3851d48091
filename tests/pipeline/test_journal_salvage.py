"""Case 17: a journal whose bytes are not what was written. It is set aside, what reads goes on, an alarm says so."""

import asyncio
import gc
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import apsw
import pytest
from structlog.testing import capture_logs

from pipeline import journal_salvage
from pipeline.events import Event, EventOutcome, Priority
from pipeline.identity import fresh_id
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.journal_errors import JournalError
from pipeline.journal_file import Ending
from pipeline.journal_log import PAGE_BYTES, WriteAheadLog
from pipeline.journal_schema import mark_of
from pipeline.rows import event_from_row
from tests.pipeline.makers import an_analysis, an_event

OPEN = 60
"""Events in the journal that is damaged: enough for its tables to have more pages than one."""


@dataclass(frozen=True)
class Sample:
    """A journal's files, and what was in it. `log` is what had not been worked into the file yet."""

    main: bytes = field(repr=False)
    log: bytes = field(repr=False)
    open: dict[UUID, Event]
    rows: set[str] = field(repr=False)

    def write(self, folder: Path, main: bytes | None = None, log: bytes | None = None) -> Path:
        folder.mkdir()
        (folder / "journal.db").write_bytes(self.main if main is None else main)
        (folder / "journal.db").chmod(0o600)
        if self.log if log is None else log:
            (folder / "journal.db-wal").write_bytes(self.log if log is None else log)
        return folder


@dataclass(frozen=True)
class Found:
    """What a journal says of itself after a start."""

    open: dict[UUID, Event]
    failed: set[UUID]
    rows: set[str] = field(repr=False)
    alarms: list[dict[str, Any]]
    dead_letters: int


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """As a kill leaves it: all of it in the file, none in the log."""
    return asyncio.run(_made(tmp_path_factory.mktemp("sample"), checkpoint=True))


@pytest.fixture(scope="module")
def in_the_log(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """As a kill leaves it: most of it in the log, in more than sixty commits."""
    return asyncio.run(_made(tmp_path_factory.mktemp("in_the_log"), checkpoint=False))


async def _made(folder: Path, checkpoint: bool) -> Sample:
    random = Random(0)
    async with open_journal(folder, JournalSettings()) as journal:
        events = [
            an_event(list(Priority)[number % 4], jpeg=random.randbytes(500 + 1500 * (number % 20)))
            for number in range(OPEN)
        ]
        for number, event in enumerate(events):
            await journal.accept(event, replayed=number % 7 == 0)
        done = an_event()
        await journal.accept(done)
        await journal.finish([Ending(done.id, EventOutcome.DONE, "", an_analysis(done.id))])
        [first, *_] = await journal.outbox(1, 10**6)
        await journal.dead_letter(first, "22P05", "told to")
        await journal.lease([events[3].id])
        rows = {row.body for row in await journal.outbox(1000, 10**9)}
        main, log = await asyncio.to_thread(_copied, folder)
    if checkpoint:  # the last thing that a journal does when it is closed
        main, log = (folder / "journal.db").read_bytes(), b""
    return Sample(main, log, {event.id: event for event in events}, rows)


def _copied(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "journal.db").read_bytes(), (folder / "journal.db-wal").read_bytes()


@asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Journal]:
    async with open_journal(folder, JournalSettings(), site="test") as journal:
        yield journal


async def found_in(folder: Path) -> Found:
    """Starts on it, reads everything, and sees that a fresh event passes."""
    async with started(folder) as journal:
        waiting = [each.id for each in await journal.recover()]
        leased = await journal.lease(waiting, suspects=True)
        rows = await journal.outbox(10_000, 10**9)
        counts = await journal.counts()
        fresh = an_event()
        assert (await journal.accept(fresh)).new
        assert [each.event for each in await journal.lease([fresh.id])] == [fresh]
    told = [(row.table, _json(row.body)) for row in rows]
    return Found(
        open={each.event.id: each.event for each in leased},
        failed={UUID(row["event_id"]) for table, row in told if table == "outcomes" and row.get("outcome") == "failed"},
        rows={row.body for row in rows},
        alarms=[row for table, row in told if table == "alarms"],
        dead_letters=counts["dead_letters"],
    )


def _json(text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def readable(folder: Path, rows_too: bool = True) -> tuple[set[UUID], set[str]]:
    """What SQLite itself can read of these files, row by row: whole events, and rows on their way."""
    copy = folder.with_name(f"{folder.name}-read")
    shutil.copytree(folder, copy)
    connection = apsw.Connection(str(copy / "journal.db"))
    events, rows = set(), set()
    for number in range(1, OPEN + 10):
        for [key, body, jpeg] in _tried(
            connection, "SELECT event_id, body, jpeg FROM events JOIN pictures USING (number) WHERE number=?", number
        ):
            if isinstance(key, bytes) and isinstance(jpeg, bytes) and (event_id := _id_in(body)):
                events |= {event_id} if event_id.bytes == key else set()
    for seq in range(1, OPEN + 20):
        rows |= {body for [body] in _tried(connection, "SELECT body FROM outbox WHERE seq=?", seq)}
    connection.close()
    shutil.rmtree(copy)
    return events, rows


def _tried(connection: apsw.Connection, statement: str, key: int) -> Sequence[Any]:
    try:
        return connection.execute(statement, (key,)).fetchall()
    except (apsw.Error, UnicodeDecodeError):
        return []


def _id_in(body: Any) -> UUID | None:
    try:
        return event_from_row(json.loads(body), b"").id
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


async def test_the_sample_is_sound_and_nothing_is_set_aside(tmp_path: Path, sample: Sample, in_the_log: Sample) -> None:
    for number, each in enumerate((sample, in_the_log)):
        folder = each.write(tmp_path / str(number))
        found = await found_in(folder)
        assert (found.open, found.rows) == (each.open, each.rows)
        assert not found.alarms
        assert not list(folder.glob("journal.db.*"))
    assert len(WriteAheadLog(in_the_log.log).frames) > OPEN


async def test_a_page_that_is_gone_takes_only_what_stood_on_it(tmp_path: Path, sample: Sample) -> None:
    """Each page in turn. What SQLite can read goes on; an event without its picture has failed, as a row."""
    all_failed: set[UUID] = set()
    for page in range(1, len(sample.main) // PAGE_BYTES, 5):
        main = bytearray(sample.main)
        main[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = os.urandom(PAGE_BYTES)
        folder = sample.write(tmp_path / f"page{page}", bytes(main))
        events, rows = readable(folder)
        found = await found_in(folder)
        assert events <= set(found.open)
        assert rows - found.rows == set()
        assert all(found.open[event_id].camera == sample.open[event_id].camera for event_id in found.open)
        all_failed |= found.failed
        shutil.rmtree(folder)
    assert all_failed


async def test_a_page_that_the_disk_does_not_give_is_a_page_that_is_gone(
    tmp_path: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector: the disk says so, each time."""
    folder = sample.write(tmp_path / "sector")
    mark_of(folder / "journal.db").write_text("told to")
    read, bad = os.pread, len(sample.main) // PAGE_BYTES - 2

    def pread(descriptor: int, length: int, offset: int) -> bytes:
        if offset == bad * PAGE_BYTES:
            raise OSError(5, "Input/output error")
        return read(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    found = await found_in(folder)
    assert len(found.open) + len(found.failed) == OPEN
    assert len(found.failed) <= 20
    assert set(found.open) | found.failed == set(sample.open)


async def test_between_two_damaged_pages_of_a_table_the_rows_are_looked_for_one_by_one(
    tmp_path: Path, sample: Sample
) -> None:
    folder = sample.write(tmp_path / "between")
    with apsw.Connection(str(folder / "journal.db")) as connection:
        leaves = [
            page
            for [page] in connection.execute(
                "SELECT pageno FROM dbstat WHERE name = 'outbox' AND pagetype = 'leaf' ORDER BY path"
            )
        ]
    connection.close()
    assert len(leaves) > 4
    main = bytearray(sample.main)
    for page in (leaves[1], leaves[-2]):
        main[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = bytes(PAGE_BYTES)
    (folder / "journal.db").write_bytes(bytes(main))
    _, rows = readable(folder)
    assert len(rows) > len(sample.rows) // 2
    assert rows <= (await found_in(folder)).rows


async def test_a_salvage_reads_a_good_log_as_sqlite_would(tmp_path: Path, in_the_log: Sample) -> None:
    folder = in_the_log.write(tmp_path / "suspect")
    mark_of(folder / "journal.db").write_text("told to")
    found = await found_in(folder)
    assert (found.open, found.rows >= in_the_log.rows, len(found.alarms)) == (in_the_log.open, True, 1)


async def test_an_event_whose_description_a_salvage_can_not_read_has_failed(tmp_path: Path, sample: Sample) -> None:
    folder = await changed(tmp_path / "changed", sample, "UPDATE events SET body = 'nonsense' WHERE number = 1")
    mark_of(folder / "journal.db").write_text("told to")
    found = await found_in(folder)
    assert found.failed == {next(iter(sample.open))}
    assert "1 events lost their picture or description" in found.alarms[0]["message"]


async def test_without_its_first_page_everything_else_is_still_read(tmp_path: Path, sample: Sample) -> None:
    """Header and list of tables, without which SQLite reads nothing."""
    folder = sample.write(tmp_path / "headless", os.urandom(PAGE_BYTES) + sample.main[PAGE_BYTES:])
    with capture_logs() as logs:
        found = await found_in(folder)
    assert (found.open, found.failed, found.dead_letters) == (sample.open, set(), 1)
    assert sample.rows <= found.rows
    [alarm] = found.alarms
    assert (alarm["site"], alarm["kind"]) == ("test", "journal_damaged")
    assert f"read: {OPEN} open events" in alarm["message"]
    [damaged] = [log for log in logs if log["event"] == "journal.damaged"]
    assert damaged["log_level"] == "error"
    assert (folder / damaged["kept_as"]).exists()


@pytest.mark.parametrize("cut", [0.0, 0.001, 0.02, 0.1, 0.5, 0.9, 0.999])
async def test_a_journal_that_was_cut_short(tmp_path: Path, sample: Sample, cut: float) -> None:
    folder = sample.write(tmp_path / "short", sample.main[: int(len(sample.main) * cut)])
    events, rows = readable(folder)
    found = await found_in(folder)
    assert events <= set(found.open)
    assert rows <= found.rows
    assert len(found.alarms) == (cut > 0)  # an empty file is a new one


@pytest.mark.parametrize("seed", range(12))
async def test_flipped_bits_anywhere_in_the_file(tmp_path: Path, sample: Sample, seed: int) -> None:
    await _flipped(tmp_path, sample, Random(seed), times=8, where=lambda random: random.randrange(len(sample.main)))


@pytest.mark.parametrize("seed", range(6))
async def test_flipped_bits_in_the_header(tmp_path: Path, sample: Sample, seed: int) -> None:
    await _flipped(tmp_path, sample, Random(seed), times=8, where=lambda random: random.randrange(100))


@pytest.mark.parametrize("seed", range(12))
async def test_flipped_bits_where_the_tables_are(tmp_path: Path, sample: Sample, seed: int) -> None:
    """The first bytes of pages lead to all others."""
    pages = len(sample.main) // PAGE_BYTES
    await _flipped(
        tmp_path,
        sample,
        Random(seed),
        times=10,
        where=lambda random: random.randrange(pages) * PAGE_BYTES + random.randrange(40),
    )


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(100, 400))
async def test_three_thousand_flips(tmp_path: Path, sample: Sample, seed: int) -> None:
    await _flipped(tmp_path, sample, Random(seed), times=10, where=lambda random: random.randrange(len(sample.main)))


async def _flipped(folder: Path, sample: Sample, random: Random, times: int, where: Callable[[Random], int]) -> None:
    for number in range(times):
        main = bytearray(sample.main)
        for _ in range(random.choice((1, 1, 3))):
            main[where(random)] ^= 1 << random.randrange(8)
        damaged = sample.write(folder / str(number), bytes(main))
        events, rows = readable(damaged)
        found = await found_in(damaged)
        assert events <= set(found.open) | found.failed
        assert len(rows - found.rows) <= found.dead_letters  # where the name of a row's table was hit
        shutil.rmtree(damaged)


# -------------------------------------------------------------------------------------------- the write-ahead log


@pytest.mark.parametrize("seed", range(10))
async def test_a_flipped_bit_in_the_log_does_not_take_what_was_committed_after_it(
    tmp_path: Path, in_the_log: Sample, seed: int
) -> None:
    """SQLite reads the log up to the wrong checksum, and says nothing of what stands behind."""
    log = bytearray(in_the_log.log)
    log[Random(seed).randrange(32, len(log) // 2)] ^= 1
    folder = in_the_log.write(tmp_path / "flipped", log=bytes(log))
    events, _ = readable(folder)
    assert len(events) < OPEN
    found = await found_in(folder)
    assert len(found.alarms) == 1
    assert len(set(found.open) | found.failed) >= OPEN - 10
    assert events <= set(found.open) | found.failed


@pytest.mark.parametrize("at", range(0, 32, 3))
async def test_without_a_readable_header_the_log_is_read_all_the_same(
    tmp_path: Path, in_the_log: Sample, at: int
) -> None:
    """SQLite would take it for an empty one, and nothing would be left of sixty events."""
    log = bytearray(in_the_log.log)
    log[at] ^= 0x40
    found = await found_in(in_the_log.write(tmp_path / "headless", log=bytes(log)))
    assert found.open == in_the_log.open
    assert found.rows >= in_the_log.rows
    assert len(found.alarms) == 1


@pytest.mark.parametrize("page", [1, 2])
async def test_a_damaged_file_under_a_good_log_loses_nothing_that_the_log_has(
    tmp_path: Path, in_the_log: Sample, page: int
) -> None:
    main = bytearray(in_the_log.main)
    main[(page - 1) * PAGE_BYTES : page * PAGE_BYTES] = os.urandom(PAGE_BYTES)
    found = await found_in(in_the_log.write(tmp_path / "under", bytes(main)))
    assert set(found.open) == set(in_the_log.open)


async def test_what_a_power_cut_left_of_the_last_transaction_is_no_damage(tmp_path: Path, in_the_log: Sample) -> None:
    """It was never acknowledged; all before it is there. Cut at every place in the last ten pages of the log."""
    frame_bytes = PAGE_BYTES + 24
    for number, cut in enumerate(range(len(in_the_log.log) - 10 * frame_bytes, len(in_the_log.log), frame_bytes // 2)):
        folder = in_the_log.write(tmp_path / str(number), log=in_the_log.log[:cut])
        events, rows = readable(folder)
        found = await found_in(folder)
        assert (set(found.open), found.rows) == (events, rows)
        assert not found.alarms


async def test_a_log_whose_new_header_met_a_power_cut_is_empty_and_no_damage(
    tmp_path: Path, sample: Sample, in_the_log: Sample
) -> None:
    """The header of the next generation is written first, over the log of the last, which has been worked in."""
    fresh = tmp_path / "fresh"
    async with started(fresh) as journal:
        await journal.accept(an_event())
        header = (await asyncio.to_thread(_copied, fresh))[1][:32]
    found = await found_in(sample.write(tmp_path / "cut", log=header + in_the_log.log[32:]))
    assert (found.open, found.alarms) == (sample.open, [])


# ------------------------------------------------------------------------------------- what no check of SQLite finds


async def changed(folder: Path, sample: Sample, *statements: str) -> Path:
    """As flipped bits would, but where we want them; SQLite finds nothing wrong with it."""
    sample.write(folder)
    connection = apsw.Connection(str(folder / "journal.db"))
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return folder


@pytest.mark.parametrize(
    "value", ["'{'", "'not JSON'", "CAST(x'ff7b7d' AS TEXT)", "'{}'", "'[]'", "replace(body, 'medium', 'modium')"]
)
async def test_an_event_whose_description_is_none_any_more_has_failed_as_a_row(
    tmp_path: Path, sample: Sample, value: str
) -> None:
    folder = await changed(tmp_path / "changed", sample, f"UPDATE events SET body = {value} WHERE priority = 2")
    hit = {event_id for event_id, event in sample.open.items() if event.priority is Priority.MEDIUM}
    with capture_logs() as logs:
        found = await found_in(folder)
    assert found.failed == hit
    assert set(found.open) == set(sample.open) - hit
    assert {log["event_id"] for log in logs if log["event"] == "event.unreadable"} == {str(each) for each in hit}


async def test_an_event_whose_id_is_not_that_of_its_description_has_failed(tmp_path: Path, sample: Sample) -> None:
    event_id = next(iter(sample.open))
    change = f"UPDATE events SET body = replace(body, '{event_id}', '{fresh_id()}') WHERE number = 1"
    found = await found_in(await changed(tmp_path / "changed", sample, change))
    assert found.failed == {event_id}


async def test_where_a_salvaged_event_has_two_ids_both_have_failed(tmp_path: Path, sample: Sample) -> None:
    event_id, other = next(iter(sample.open)), fresh_id()
    folder = await changed(
        tmp_path / "changed",
        sample,
        f"UPDATE events SET body = replace(body, '{event_id}', '{other}') WHERE number = 1",
    )
    mark_of(folder / "journal.db").write_text("told to")
    assert (await found_in(folder)).failed == {event_id, other}


async def test_an_event_whose_picture_is_gone_has_failed_as_a_row(tmp_path: Path, sample: Sample) -> None:
    folder = await changed(tmp_path / "changed", sample, "DELETE FROM pictures WHERE number = 5")
    assert len((await found_in(folder)).failed) == 1


async def test_rows_that_are_no_text_or_of_no_table_hold_up_none_of_the_others(tmp_path: Path, sample: Sample) -> None:
    folder = await changed(
        tmp_path / "changed",
        sample,
        "UPDATE outbox SET table_name = 'evemts' WHERE seq = 4",
        "UPDATE outbox SET table_name = CAST(x'ff' AS TEXT) WHERE seq = 5",
        "UPDATE outbox SET body = CAST(x'7bff7d' AS TEXT) WHERE seq = 6",
        "UPDATE dead_letters SET body = CAST(x'ff' AS TEXT), reason = CAST(x'ff' AS TEXT)",
    )
    async with started(folder) as journal:
        rows = await journal.outbox(1000, 10**9)
        assert {"{\ufffd}"} < {row.body for row in rows}
        assert len(rows) >= len(sample.rows) - 2
        damaged = [letter for letter in await journal.dead_letters(10) if letter.sqlstate == "XX001"]
        assert [letter.table for letter in damaged] == ["evemts", "\ufffd"]
        assert await journal.retry_dead_letters(None) == 3


@pytest.mark.parametrize("priority", ["7", "-1", "'high'", "NULL"])
async def test_a_class_that_is_none_is_the_least_urgent(tmp_path: Path, sample: Sample, priority: str) -> None:
    statements = ("PRAGMA writable_schema = 1", f"UPDATE OR IGNORE events SET priority = {priority} WHERE number = 2")
    found = await found_in(await changed(tmp_path / "changed", sample, *statements))
    assert len(found.open) == OPEN


@pytest.mark.parametrize(
    "change",
    ["boot_id = CAST(x'e3' AS TEXT)", "attempts = CAST(x'e3' AS TEXT)", "accepted_boot = x'e3', accepted_wall = 'x'"],
)
async def test_numbers_and_times_that_are_none_disturb_nobody(tmp_path: Path, sample: Sample, change: str) -> None:
    found = await found_in(await changed(tmp_path / "changed", sample, f"UPDATE events SET {change} WHERE number = 4"))
    assert found.open == sample.open


@pytest.mark.parametrize("change", [("body ", "bodi "), ("'leased'", "'leasee'"), ("attempts", "attempt!")])
async def test_a_list_of_tables_that_is_another_is_damage_and_that_of_a_new_journal_stands_in_for_it(
    tmp_path: Path, sample: Sample, change: tuple[str, str]
) -> None:
    """integrity_check finds nothing wrong with a column of another name."""
    right, wrong = (f"'{word.replace(chr(39), 2 * chr(39))}'" for word in change)
    statement = f"UPDATE sqlite_master SET sql = replace(sql, {right}, {wrong}) WHERE name = 'events'"
    folder = await changed(tmp_path / "changed", sample, "PRAGMA writable_schema = 1", statement)
    found = await found_in(folder)
    assert (found.open, len(found.alarms)) == (sample.open, 1)


@pytest.mark.parametrize("header", ["user_version = 1", "user_version = 7", "user_version = -3", "application_id = 5"])
async def test_a_header_that_says_what_the_tables_do_not_is_damage(tmp_path: Path, sample: Sample, header: str) -> None:
    found = await found_in(await changed(tmp_path / "changed", sample, f"PRAGMA {header}"))
    assert (found.open, len(found.alarms)) == (sample.open, 1)


async def test_a_version_that_never_was_is_damage_whatever_the_tables_are(tmp_path: Path, sample: Sample) -> None:
    """Not a newer lva's journal, which would be left alone for ever."""
    statement = "UPDATE sqlite_master SET sql = replace(sql, 'body ', 'bodi ') WHERE name = 'events'"
    folder = await changed(
        tmp_path / "changed", sample, "PRAGMA user_version = -3", "PRAGMA writable_schema = 1", statement
    )
    found = await found_in(folder)
    assert (found.open, len(found.alarms)) == (sample.open, 1)


async def test_ages_that_can_not_be_are_none(tmp_path: Path, sample: Sample) -> None:
    folder = await changed(
        tmp_path / "changed", sample, "UPDATE events SET accepted_boot = 9e999, accepted_wall = 9e999"
    )
    async with started(folder) as journal:
        assert {waiting.age_s for waiting in await journal.recover()} == {0.0}


# ------------------------------------------------------------------------------------------- setting aside, by steps


async def test_damage_that_is_found_at_work_ends_the_journal_and_the_next_start_salvages(
    tmp_path: Path, sample: Sample
) -> None:
    folder = sample.write(tmp_path / "later")

    def find_damage(_: Any) -> None:
        raise apsw.CorruptError("database disk image is malformed")

    async with started(folder) as journal:
        with pytest.raises(JournalError, match="malformed"):
            await journal._do(find_damage)
        with pytest.raises(JournalError):
            await journal.failed
    found = await found_in(folder)
    assert (found.open, len(found.alarms)) == (sample.open, 1)
    assert not mark_of(folder / "journal.db").exists()
    assert len((await found_in(folder)).alarms) == 1  # still on its way, and no second one


@pytest.mark.parametrize("step", range(12))
async def test_a_start_that_is_cut_short_while_it_salvages_goes_on_at_the_next(
    tmp_path: Path, sample: Sample, in_the_log: Sample, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Case 16: whichever rename or sync of a file is the last thing that happens."""
    log = bytearray(in_the_log.log)
    log[0] ^= 0x40
    folder = in_the_log.write(tmp_path / "cut", log=bytes(log))
    steps = 0

    class Killed(BaseException):
        pass

    def dying(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == step + 1:
                raise Killed
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync"):
            patch.setattr(os, name, dying(name))
        try:
            async with started(folder):
                pass
        except Killed:
            pass
        else:
            assert step >= 7
    gc.collect()  # a process that is really killed leaves no connection, and no lock, behind
    found = await found_in(folder)
    assert found.open == in_the_log.open
    assert {"journal.db", "lock"} <= {file.name for file in folder.iterdir()}
    assert len([file for file in folder.iterdir() if file.name.endswith("Z")]) == 1
    assert len([file for file in folder.iterdir() if file.name.endswith("Z-wal")]) == 1
    assert not [file for file in folder.iterdir() if "salvag" in file.name]


async def test_damaged_journals_are_kept_three_at_most_and_no_more_than_the_quota(
    tmp_path: Path, sample: Sample
) -> None:
    folder = sample.write(tmp_path / "again")
    for _ in range(6):
        (folder / "journal.db").write_bytes(os.urandom(PAGE_BYTES) + sample.main[PAGE_BYTES:])
        async with started(folder):
            pass
    kept = sorted(folder.glob("journal.db.damaged-*Z"))
    assert len(kept) == 3
    journal_salvage.forget_old_damage(folder / "journal.db", most_bytes=1)
    assert sorted(folder.glob("journal.db.damaged-*")) == kept[-1:]


async def test_where_there_is_no_room_to_salvage_everything_stays_as_it_was_and_the_daemon_does_not_start(
    tmp_path: Path, sample: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = os.urandom(PAGE_BYTES) + sample.main[PAGE_BYTES:]
    folder = sample.write(tmp_path / "full", damaged)

    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal_salvage, "_sync", no_room)
        with pytest.raises(JournalError, match="No space left"):
            async with started(folder):
                pass
    assert (folder / "journal.db").read_bytes() == damaged
    assert (await found_in(folder)).open == sample.open


@pytest.mark.parametrize(
    "content",
    [b"not a database at all, but long enough" * 500, b"SQLite format 3\x00" + b"\xff" * 40_000, b"\0" * 9999],
)
async def test_a_file_with_nothing_in_it_to_read_is_set_aside_and_a_new_journal_begun(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "journal.db").write_bytes(content)
    (tmp_path / "journal.db").chmod(0o600)
    found = await found_in(tmp_path)
    assert (found.open, len(found.alarms)) == ({}, 1)
    [kept] = tmp_path.glob("journal.db.damaged-*Z")
    assert kept.read_bytes() == content
