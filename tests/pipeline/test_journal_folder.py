"""Case 18 and 24: a state folder that can't be used, or not safely, is one clear line; and nothing is made instead."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import journal_open
from pipeline.journal import JournalSettings, open_journal
from pipeline.journal_errors import JournalError
from tests.pipeline.makers import an_event

SOMEBODY = 4242
"""A user that there is not."""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of another user")


async def refused(folder: Path) -> str:
    with pytest.raises(JournalError) as caught:
        async with open_journal(folder, JournalSettings()):
            pass
    return str(caught.value)


async def test_a_folder_that_is_missing_is_made_with_those_above_it_for_its_owner_alone(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "a" / "b", JournalSettings()) as journal:
        await journal.accept(an_event())
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in (tmp_path / "a" / "b").iterdir()}
    assert modes == {"journal.db": "0o600", "journal.db-wal": "0o600", "lock": "0o600"}
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


async def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    assert await refused(tmp_path / "state") == f"{tmp_path / 'state'}: File exists"
    assert await refused(tmp_path / "state" / "deeper") == f"{tmp_path / 'state' / 'deeper'}: Not a directory"


async def test_a_folder_in_the_place_of_the_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db").mkdir()
    assert await refused(tmp_path) == f"{tmp_path / 'journal.db'}: is a folder; move it away"


@pytest.mark.parametrize("name", ["journal.db", "lock"])
async def test_a_symbolic_link_is_not_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").write_text("theirs")
    (tmp_path / name).symlink_to("elsewhere")
    assert "is a symbolic link" in await refused(tmp_path)
    assert (tmp_path / "elsewhere").read_text() == "theirs"


async def test_a_link_on_the_way_to_the_folder_is_the_operators_business(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    (tmp_path / "state").symlink_to("real")
    async with open_journal(tmp_path / "state", JournalSettings()):
        pass
    assert (tmp_path / "real" / "journal.db").exists()


async def test_a_pipe_in_the_place_of_the_journal_is_refused_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "journal.db", 0o600)
    assert "is no plain file" in await refused(tmp_path)


@pytest.mark.parametrize("mode", [0o622, 0o660, 0o606])
async def test_a_journal_that_others_may_write_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, mode: int
) -> None:
    (tmp_path / "journal.db").touch()
    (tmp_path / "journal.db").chmod(mode)
    assert (await refused(tmp_path)).endswith(f"run: chmod 600 {tmp_path / 'journal.db'}")


async def test_a_journal_that_others_may_read_is_closed_to_them(tmp_path: Path) -> None:
    (tmp_path / "journal.db").touch()
    (tmp_path / "journal.db").chmod(0o644)
    async with open_journal(tmp_path, JournalSettings()):
        assert (tmp_path / "journal.db").stat().st_mode & 0o777 == 0o600


async def test_a_folder_that_every_user_may_write_in_is_refused_unless_it_is_sticky(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert (await refused(tmp_path)).endswith(f"run: chmod o-w {tmp_path}")
    tmp_path.chmod(0o1777)
    async with open_journal(tmp_path, JournalSettings()):
        pass


async def test_a_second_daemon_on_the_same_folder_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    """Case 24."""
    async with open_journal(tmp_path, JournalSettings()) as journal:
        event = an_event()
        await journal.accept(event)
        assert await refused(tmp_path) == f"{tmp_path}: another lva is running on this state folder"
        assert [waiting.id for waiting in await journal.waiting()] == [event.id]
        await journal.accept(an_event())
    async with open_journal(tmp_path, JournalSettings()):
        pass


@needs_root
async def test_what_root_makes_in_the_folder_of_another_user_is_that_users(tmp_path: Path) -> None:
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    async with open_journal(tmp_path, JournalSettings()) as journal:
        await journal.accept(an_event())
        owners = {file.name: file.stat().st_uid for file in tmp_path.iterdir()}
    assert owners == dict.fromkeys(("journal.db", "journal.db-wal", "lock"), SOMEBODY)


@pytest.fixture
def of_root(tmp_path: Path) -> Iterator[Path]:
    """A folder that another user can reach."""
    ways = [tmp_path, *tmp_path.parents]
    before = {way: way.stat().st_mode & 0o7777 for way in ways}
    for way in ways:
        way.chmod(before[way] | 0o055)
    yield tmp_path
    for way in ways:
        way.chmod(before[way])


def as_somebody(folder: Path) -> str:
    """What opening the journal says to another user; "opened" if nothing."""
    code = f"""
import asyncio, concurrent.futures.thread, os, sys  # all of it before the user changes, who may not read it
from pathlib import Path
from pipeline.journal import JournalSettings, open_journal
from pipeline.journal_errors import JournalError
os.setgroups([]); os.setgid({SOMEBODY}); os.setuid({SOMEBODY})
async def main():
    async with open_journal(Path(sys.argv[1]), JournalSettings()):
        print("opened")
try:
    asyncio.run(main())
except JournalError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert ran.stderr == ""
    return ran.stdout.strip()


@needs_root
def test_a_folder_of_another_user_is_a_clear_line(of_root: Path) -> None:
    state = of_root / "state"
    state.mkdir(0o700)
    assert as_somebody(state) == f"{state / 'lock'}: Permission denied"
    assert as_somebody(of_root / "new") == f"{of_root / 'new'}: Permission denied"


@needs_root
def test_a_read_only_folder_is_a_clear_line(of_root: Path) -> None:
    state = of_root / "state"
    state.mkdir()
    os.chown(state, SOMEBODY, SOMEBODY)
    assert as_somebody(state) == "opened"
    for file in (*state.iterdir(), state):
        file.chmod(0o500 if file == state else 0o400)
    assert as_somebody(state) == f"{state / 'lock'}: Permission denied"


@needs_root
def test_a_journal_of_another_user_is_refused_with_the_command_that_mends_it(of_root: Path) -> None:
    state = of_root / "state"
    state.mkdir()
    os.chown(state, SOMEBODY, SOMEBODY)
    (state / "journal.db").touch(0o666)
    (state / "journal.db").chmod(0o666)
    line = as_somebody(state)
    assert line.startswith(f"{state / 'journal.db'}: belongs to root")
    assert line.endswith(f"run: sudo chown {SOMEBODY} {state / 'journal.db'}")


def test_a_read_only_file_system_is_a_clear_line_and_no_journal_in_memory(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(tmp_path)]
    mounted = subprocess.run(["unshare", "-Urm", *mount], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    code = f"""
import asyncio
from pathlib import Path
from pipeline.journal import JournalSettings, open_journal
from pipeline.journal_errors import JournalError
async def main():
    async with open_journal(Path({str(tmp_path)!r}), JournalSettings()):
        print("opened")
try:
    asyncio.run(main())
except JournalError as error:
    print(error)
"""
    script = f'{" ".join(mount)} && exec {sys.executable} -c "$CODE"'
    ran = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CODE": code},
    )
    assert ran.stdout == f"{tmp_path / 'lock'}: Read-only file system\n"


@needs_root
async def test_root_does_not_use_a_journal_of_a_user_to_whom_not_even_the_folder_belongs(tmp_path: Path) -> None:
    (tmp_path / "journal.db").touch(0o600)
    os.chown(tmp_path / "journal.db", SOMEBODY, SOMEBODY)
    line = f"belongs to {SOMEBODY}, and lva runs as root; run: sudo chown root {tmp_path / 'journal.db'}"
    assert (await refused(tmp_path)).endswith(line)


async def test_a_log_that_can_not_be_read_is_a_clear_line(tmp_path: Path) -> None:
    (tmp_path / "journal.db-wal").mkdir()
    assert "journal.db-wal" in await refused(tmp_path)


async def test_a_folder_whose_names_can_not_be_synced_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> None:
        raise OSError(5, "Input/output error", str(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr(journal_open, "sync_names", broken)
        assert await refused(tmp_path) == f"{tmp_path}: Input/output error"
    async with open_journal(tmp_path, JournalSettings()) as journal:
        await journal.accept(an_event())
