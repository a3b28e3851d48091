"""Disks that fail, and disks that are slow: the journal in a real process whose system calls are tampered with."""

import json
from pathlib import Path

import pytest

from pipeline.journal import JournalSettings, open_journal
from tests.faults.ledger import found_in
from tests.faults.minting import subject
from tests.faults.oracle import fingerprint
from tests.faults.syscalls import SYNCS, Ended, needs_strace, run_with
from tests.pipeline.makers import an_event

pytestmark = needs_strace

ACCEPTING = "tests.faults.accepting"
SYNC_S = 2.0
DELAY = f"delay_exit={SYNC_S * 1e6:.0f}"
SETTINGS = JournalSettings(reserve_mb=0, floor_mb=0)


async def a_journal(folder: Path) -> None:
    async with open_journal(folder, SETTINGS):
        pass


async def check_restart(folder: Path, ended: Ended) -> set[str]:
    """The next start takes nothing away of what was accepted, whose ids are returned, and a fresh event passes."""
    accepted = dict(line.split()[1:] for line in ended.said if line.startswith("accepted"))
    async with open_journal(folder, SETTINGS) as journal:
        found = await found_in(journal)
        for event_id, sha in accepted.items():
            row = found["row", "events", event_id]
            assert fingerprint(row) == sha
            event = found.get(("open", event_id))
            assert event is None or (fingerprint(event), subject(event.jpeg)) == (sha, event_id)
            assert (event is None) == (("row", "outcomes", event_id) in found)
        assert (await journal.accept(an_event())).new
    return set(accepted)


@pytest.mark.parametrize(
    ("calls", "call"), [("fdatasync", 1), ("fdatasync", 3), ("fdatasync", 8), ("pwrite64", 1), ("pwrite64", 7)]
)
async def test_a_disk_error_ends_the_process_and_the_next_one_goes_on(tmp_path: Path, calls: str, call: int) -> None:
    """Case 22. The second fdatasync of the journal's thread is that of the folder, which SQLite does not look at."""
    await a_journal(tmp_path)
    ended = await run_with(calls, f"error=EIO:when={call}", ACCEPTING, str(tmp_path), "400", "4")
    assert ended.status == 1
    assert "the journal failed" in ended.complained
    accepted = await check_restart(tmp_path, ended)
    assert len(accepted) < 400


@pytest.mark.parametrize("call", [1, 2])
async def test_a_folder_that_cannot_be_synced_holds_no_journal(tmp_path: Path, call: int) -> None:
    """Case 22."""
    ended = await run_with("fsync", f"error=EIO:when={call}", ACCEPTING, str(tmp_path / "state"), "40", "4")
    assert ended.status == 1
    assert "Input/output error" in ended.complained
    assert not await check_restart(tmp_path / "state", ended)


@pytest.mark.parametrize("call", [1, 2, 3, 4])
async def test_a_disk_error_while_the_journal_is_made_is_told_and_the_next_start_makes_it(
    tmp_path: Path, call: int
) -> None:
    """Case 22."""
    ended = await run_with("fdatasync", f"error=EIO:when={call}", ACCEPTING, str(tmp_path), "40", "4")
    assert ended.status == 1
    assert "journal" in ended.complained
    await check_restart(tmp_path, ended)


async def test_a_slow_disk_slows_who_accepts_and_not_the_loop(tmp_path: Path) -> None:
    """Case 23."""
    await a_journal(tmp_path)
    ended = await run_with(SYNCS, DELAY, ACCEPTING, str(tmp_path), "12", "6")
    waits = json.loads(ended.said[-1].removeprefix("ended "))
    print(waits)
    assert ended.status == 0
    assert len(await check_restart(tmp_path, ended)) == 12
    assert waits["command_s"] > SYNC_S > 2 * waits["loop_s"]


async def test_a_loop_that_waits_for_the_disk_is_noticed(tmp_path: Path) -> None:
    """Case 23."""
    await a_journal(tmp_path)
    ended = await run_with("fdatasync", "delay_exit=500000", ACCEPTING, str(tmp_path), "4", "1", "blocking")
    assert json.loads(ended.said[-1].removeprefix("ended "))["loop_s"] > 0.4  # of half a second; a tick had begun


async def test_a_disk_that_is_full_for_moments_refuses_aloud_and_loses_nothing(tmp_path: Path) -> None:
    """Case 19."""
    await a_journal(tmp_path)
    ended = await run_with("pwrite64", "error=ENOSPC:when=40+50", ACCEPTING, str(tmp_path), "400", "4")
    assert ended.status == 0
    accepted = await check_restart(tmp_path, ended)
    refused = [line for line in ended.said if line.startswith("refused")]
    assert accepted
    assert len(accepted) + len(refused) == 400
