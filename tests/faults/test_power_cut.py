"""Case 15: power cuts at any moment of a journal's life, on a disk that forgets what was not synced."""

import asyncio
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import apsw
import pytest

from pipeline import journal_schema, journal_writer
from pipeline.events import Event
from pipeline.journal import Journal, JournalSettings, open_journal
from pipeline.journal_schema import JournalError
from tests.faults.journal_life import Life, SetClock
from tests.faults.ledger import (
    Fact,
    InconsistentError,
    Ledger,
    Page,
    Verdict,
    attempts,
    event_row,
    found_in,
    open_event,
)
from tests.faults.power_cut import SECTOR_BYTES, Disk, DiskState, a_disk, write_files
from tests.pipeline.makers import an_event

SEEDS = range(7)
REGRESSIONS: tuple[int, ...] = ()
"""Seeds that found something once."""

ROUNDS = 40
"""Of commands, in a life."""
MOMENTS = 40
"""At which the power of a life is cut."""
CUTS = 5
"""Of each moment: what each leaves is another matter of luck."""

SETTINGS = JournalSettings(reserve_mb=0, floor_mb=0)

NORMAL, OFF = 1, 0
"""Of PRAGMA synchronous."""


@dataclass(frozen=True, slots=True)
class Instant:
    """What the disk had, and what the journal had promised by then. `recorded` is what may have been told."""

    state: DiskState
    page: Page
    recorded: tuple[Event, ...] = ()
    accepted: int = 0


class Witness:
    """Looks before every change of the disk and keeps some of the instants, each with the same chance (reservoir
    sampling), so that cuts fall anywhere: in a commit, in a checkpoint, while the journal is made or closed."""

    def __init__(self, ledger: Ledger, random: Random, moments: int) -> None:
        self.instants: list[Instant] = []
        self.changes: list[str] = []
        self.life: Life | None = None
        self.ledger = ledger
        self._random = random
        self._moments = moments

    def look(self, disk: Disk, change: str) -> None:
        self.changes.append(change)
        place = len(self.instants)
        if place == self._moments:
            place = self._random.randrange(len(self.changes))
        if place < self._moments:
            self.instants[place : place + 1] = [self._now(disk)]

    def _now(self, disk: Disk) -> Instant:
        page = self.ledger.page()  # before the disk: what is acknowledged by now must be on it
        if self.life is None:
            return Instant(disk.state(), page)
        return Instant(disk.state(), page, tuple(self.life.recorded), self.life.accepted)


@dataclass(slots=True)
class Toll:
    """What power cuts cost. `acknowledged` are the events accepted before, summed over all cuts."""

    cuts: int = 0
    acknowledged: int = 0
    lost: int = 0
    invented: int = 0
    corrupt: int = 0

    def of_facts(self) -> tuple[int, int, int]:
        return self.lost, self.invented, self.corrupt


async def a_life(folder: Path, seed: int, rounds: int = ROUNDS, moments: int = MOMENTS) -> Witness:
    """A journal from its creation to its close."""
    ledger = Ledger()
    witness = Witness(ledger, Random(seed), moments)
    with a_disk(witness.look) as disk:
        async with open_journal(folder, SETTINGS, SetClock(), vfs=disk.name) as journal:
            witness.life = Life(journal, Random(seed), ledger)
            await witness.life.live(rounds)
    return witness


async def cut_and_start(folder: Path, instant: Instant, random: Random, toll: Toll) -> None:
    """A power cut, and the next start on what it left. That start is on such a disk too, as it syncs nothing."""
    write_files(folder, instant.state.cut(random))
    toll.cuts += 1
    toll.acknowledged += instant.accepted
    try:
        with a_disk() as disk:
            async with open_journal(folder, SETTINGS, SetClock(), vfs=disk.name) as journal:
                verdict = instant.page.compare(await found_in(journal, instant.recorded))
                await a_fresh_event_passes(journal)
    except (JournalError, InconsistentError, apsw.Error, ValueError, KeyError):  # damage is noticed in many ways
        toll.corrupt += 1
        return
    toll.corrupt += not is_sound(folder)
    toll.lost += len(_ids(verdict.lost))
    toll.invented += len(_ids(verdict.invented))
    shutil.rmtree(folder)


def _ids(facts: Iterable[Fact]) -> set[str]:
    """Of the events and gaps that facts are about."""
    return {key.split()[-1] for *_, key in facts}


async def a_fresh_event_passes(journal: Journal) -> None:
    event = an_event()
    assert (await journal.accept(event)).new
    assert [leased.event for leased in await journal.lease([event.id])] == [event]


def is_sound(folder: Path) -> bool:
    """Whether it was never set aside as damaged, and is not damaged."""
    if {file.name for file in folder.iterdir()} - {"journal.db", "journal.db-wal", "lock", "reserve"}:
        return False
    connection = apsw.Connection(str(folder / "journal.db"))
    try:
        return connection.pragma("integrity_check") == "ok" and not connection.pragma("foreign_key_check")
    except apsw.Error:
        return False


async def toll_of(folder: Path, instants: Sequence[Instant], random: Random, cuts: int = CUTS) -> Toll:
    toll = Toll()
    for number, instant in enumerate(instants):
        for cut in range(cuts):
            await cut_and_start(folder / f"{number}-{cut}", instant, random, toll)
    return toll


async def toll_of_a_life(folder: Path, seed: int, moments: int = MOMENTS, cuts: int = CUTS) -> Toll:
    witness = await a_life(folder / "life", seed, moments=moments)
    return await toll_of(folder, witness.instants, Random(seed), cuts)


@pytest.fixture(autouse=True)
def _one_thread_at_a_time() -> Iterator[None]:
    """A thread runs until it waits. So the commands of a round are one commit, and a seed is the same at each run."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture(autouse=True)
def _checkpoints_are_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are where the write-ahead log meets the file: every few commits here, not every few thousand."""
    monkeypatch.setattr(journal_writer, "CHECKPOINT_PAGES", 12)


def a_file(disk: Disk, path: Path, kind: int = apsw.SQLITE_OPEN_MAIN_DB) -> apsw.VFSFile:
    return apsw.VFSFile(disk.name, str(path), [kind | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE, 0])


def cuts_of(disk: Disk) -> list[dict[str, bytes]]:
    return [disk.state().cut(Random(seed)) for seed in range(200)]


def test_every_cut_leaves_what_was_synced_and_some_leave_what_came_after(tmp_path: Path) -> None:
    with a_disk() as disk:
        file = a_file(disk, tmp_path / "file")
        file.xWrite(b"safe and sound", 0)
        file.xSync(apsw.SQLITE_SYNC_FULL)
        disk.sync_names()
        file.xWrite(b"SAFE", 0)
        file.xTruncate(8)
        left = {files["file"] for files in cuts_of(disk)}
        assert disk.state().whole() == {"file": b"SAFE and"} == {"file": (tmp_path / "file").read_bytes()}
    assert left == {b"safe and sound", b"SAFE and sound", b"safe and", b"SAFE and"}


def test_a_write_may_be_left_in_part_by_whole_sectors(tmp_path: Path) -> None:
    with a_disk() as disk:
        file = a_file(disk, tmp_path / "file")
        disk.sync_names()
        file.xWrite(b"a" * SECTOR_BYTES + b"b" * SECTOR_BYTES + b"c" * 10, 0)
        left = {files["file"].translate(None, b"\0") for files in cuts_of(disk)}
    a, b, c = b"a" * SECTOR_BYTES, b"b" * SECTOR_BYTES, b"c" * 10
    assert left == {b"", a, b, c, a + b, a + c, b + c, a + b + c}


def test_a_new_name_may_be_gone_until_its_folder_was_synced(tmp_path: Path) -> None:
    with a_disk() as disk:
        a_file(disk, tmp_path / "journal.db").xSync(apsw.SQLITE_SYNC_FULL)
        log = a_file(disk, tmp_path / "journal.db-wal", apsw.SQLITE_OPEN_WAL)
        before = {tuple(sorted(files)) for files in cuts_of(disk)}
        log.xSync(apsw.SQLITE_SYNC_FULL)
        after = {tuple(sorted(files)) for files in cuts_of(disk)}
    assert before == {(), ("journal.db",), ("journal.db-wal",), ("journal.db", "journal.db-wal")}
    assert after == {("journal.db", "journal.db-wal")}


@pytest.mark.parametrize(("syncs_folder", "may_be_back"), [(False, True), (True, False)])
def test_a_deleted_file_may_be_back_until_its_folder_was_synced(
    tmp_path: Path, syncs_folder: bool, may_be_back: bool
) -> None:
    with a_disk() as disk:
        a_file(disk, tmp_path / "file").xClose()
        disk.sync_names()
        disk.xDelete(str(tmp_path / "file"), syncs_folder)
        assert any(cuts_of(disk)) == may_be_back


@pytest.mark.parametrize("seed", [*SEEDS, *REGRESSIONS])
async def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path, seed: int) -> None:
    toll = await toll_of_a_life(tmp_path, seed)
    print(toll)
    assert toll.cuts == MOMENTS * CUTS
    assert toll.acknowledged
    assert toll.of_facts() == (0, 0, 0)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(100, 140))
async def test_eight_thousand_power_cuts_more(tmp_path: Path, seed: int) -> None:
    assert (await toll_of_a_life(tmp_path, seed)).of_facts() == (0, 0, 0)


@pytest.mark.parametrize(("synchronous", "seed"), [(NORMAL, 1), (OFF, 2)])
async def test_with_less_syncing_the_same_cuts_take_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: int, seed: int
) -> None:
    monkeypatch.setitem(journal_schema._PRAGMAS, "synchronous", synchronous)
    toll = await toll_of_a_life(tmp_path, seed, moments=20, cuts=2)
    print(toll)
    assert toll.lost
    assert toll.corrupt or synchronous == NORMAL


async def test_a_cut_while_a_journal_is_made_leaves_none_or_a_good_one(tmp_path: Path) -> None:
    witness = await a_life(tmp_path / "life", seed=0, rounds=0, moments=1000)
    assert len(witness.instants) == len(witness.changes) > 30
    assert (await toll_of(tmp_path, witness.instants, Random(0))).of_facts() == (0, 0, 0)


async def test_a_cut_while_an_older_journal_is_brought_up_to_date_changes_nothing_or_all_of_it(tmp_path: Path) -> None:
    ledger = Ledger()
    older = tmp_path / "older"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_schema, "STEPS", journal_schema.STEPS[:1])
        patch.setattr(journal_schema, "SCHEMA_VERSION", 1)
        async with open_journal(older, SETTINGS, SetClock()) as journal:
            for event in (an_event(jpeg=bytes(20_000)) for _ in range(9)):
                await ledger.asked(
                    journal.accept(event), dict([open_event(event), attempts(event, 0), event_row(event)])
                )
    witness = Witness(ledger, Random(0), moments=1000)
    with a_disk(witness.look) as disk:
        async with open_journal(older, SETTINGS, SetClock(), vfs=disk.name):
            pass
    toll = await toll_of(tmp_path, witness.instants, Random(0))
    assert toll.cuts > 40
    assert toll.of_facts() == (0, 0, 0)


@pytest.mark.parametrize("seed", range(8))
async def test_after_a_cut_the_journal_lives_on_to_the_next_cut(tmp_path: Path, seed: int) -> None:
    """Cuts fall in the recovery from the cut before, too. What is taken up again costs an attempt, each time."""
    random, before = Random(seed), None
    for life in range(12):
        folder, page = tmp_path / f"{life}", before and before.page
        if before:
            write_files(folder, before.state.cut(random))
        witness = Witness(ledger := Ledger(page), random, 1)
        with a_disk(witness.look) as disk:
            async with open_journal(folder, SETTINGS, SetClock(), vfs=disk.name) as journal:
                found = await (witness_life := Life(journal, random, ledger, recorded_share=0)).resume()
                verdict = (page or Page({}, ())).compare(found)
                assert verdict == Verdict()
                await witness_life.live(rounds=5)
        assert is_sound(folder)
        [before] = witness.instants


@pytest.mark.parametrize("seed", range(3))
async def test_a_seed_writes_the_same_at_each_run(tmp_path: Path, seed: int) -> None:
    first, second = [(await a_life(tmp_path / each, seed)).changes for each in ("first", "second")]
    assert len(first) > 500
    assert first == second


async def toll_after_a_failed_sync(folder: Path, seed: int) -> Toll:
    """The kernel says once that it could not write, and takes what it has in memory for written from then on. The
    next start reads that; what a later power cut leaves is another matter."""
    random, ledger, life = Random(seed), Ledger(), folder / "life"
    with a_disk() as disk:
        async with open_journal(life, SETTINGS, SetClock(), vfs=disk.name) as journal:
            disk.fail_at_sync(random.randint(1, 30), random)
            try:
                await Life(journal, random, ledger, recorded_share=0).live(100)
            except* JournalError:
                await asyncio.wait([journal.failed])
            assert isinstance(journal.failed.exception(), JournalError)
    witness = Witness(Ledger(ledger.page()), random, moments=20)
    with a_disk(witness.look, holds=disk.state().cut(random)) as disk:
        async with open_journal(life, SETTINGS, SetClock(), vfs=disk.name) as journal:
            next_life = Life(journal, random, witness.ledger, recorded_share=0)
            assert ledger.page().compare(await next_life.resume()) == Verdict()
            await next_life.live(3)
    return await toll_of(folder, witness.instants, random, cuts=3)


@pytest.mark.parametrize("seed", range(6))
async def test_after_a_sync_that_failed_nothing_hangs_on_what_was_not_written(tmp_path: Path, seed: int) -> None:
    assert (await toll_after_a_failed_sync(tmp_path, seed)).of_facts() == (0, 0, 0)


async def test_if_the_log_were_not_written_again_something_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_schema, "write_again", lambda log, vfs: None)
    tolls = [await toll_after_a_failed_sync(tmp_path / f"{seed}", seed) for seed in range(5)]
    assert any(toll.corrupt for toll in tolls)


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(100, 130))
async def test_two_thousand_power_cuts_after_syncs_that_failed(tmp_path: Path, seed: int) -> None:
    assert (await toll_after_a_failed_sync(tmp_path, seed)).of_facts() == (0, 0, 0)
