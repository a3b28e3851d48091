"""Case 59: a journal of another version, with rows in it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import apsw
import pytest

from pipeline import journal_schema
from pipeline.clock import Moment
from pipeline.events import EventOutcome
from pipeline.journal import JournalSettings, open_journal
from pipeline.journal_errors import JournalError
from pipeline.journal_file import Ending
from pipeline.rows import event_row, to_json
from tests.pipeline.makers import NOW, an_event

VERSION_1 = """
CREATE TABLE events (
    number        INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id      BLOB NOT NULL UNIQUE,
    priority      INTEGER NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('captured', 'leased')),
    attempts      INTEGER NOT NULL DEFAULT 0,
    boot_id       TEXT NOT NULL,
    accepted_boot REAL NOT NULL,  -- seconds since boot, suspend included
    accepted_wall REAL NOT NULL,  -- Unix time, for an age across boots
    body          TEXT NOT NULL
);
CREATE INDEX events_to_shed ON events (priority DESC, number);
-- Apart from the events, so that a change of state does not write the picture again.
CREATE TABLE pictures (number INTEGER PRIMARY KEY REFERENCES events ON DELETE CASCADE, jpeg BLOB NOT NULL);
CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, table_name TEXT NOT NULL, body TEXT NOT NULL);
-- Events of recorded files whose identity is made from the recording: a second run must not tell them again.
CREATE TABLE told (event_id BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE dead_letters (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, table_name TEXT NOT NULL, body TEXT NOT NULL,
    sqlstate TEXT NOT NULL, reason TEXT NOT NULL, failed_wall REAL NOT NULL
);
PRAGMA application_id = 0x6C766131;
PRAGMA user_version = 1;
"""
"""As the first version of lva made it."""

VERSION_2 = """
ALTER TABLE events ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;  -- how often the daemon died with it in hand
ALTER TABLE events ADD COLUMN leased_boot_id TEXT;  -- a power cut is another boot, and nobody's fault
PRAGMA user_version = 2;
"""
"""What the second one added."""

OLD = [an_event(jpeg=b"x" * (1000 * number)) for number in range(1, 6)]


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """Five events that wait, one of them in a worker's hands; their rows; a dead letter; one that was told."""
    connection = apsw.Connection(str(tmp_path / "journal.db"))
    (tmp_path / "journal.db").chmod(0o600)
    connection.execute("PRAGMA page_size = 8192; PRAGMA journal_mode = wal")
    connection.execute(VERSION_1)
    for number, event in enumerate(OLD, 1):
        body = {key: value for key, value in event_row(event, Moment(NOW)).items() if "boot" not in key}
        del body["clock_synced"]
        state = "leased" if number == 1 else "captured"
        values = (number, event.id.bytes, int(event.priority), state, 0, "an old boot", 1.0, 1.0, to_json(body))
        connection.execute("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?)", values)
        connection.execute("INSERT INTO pictures VALUES (?,?)", (number, event.jpeg))
        connection.execute("INSERT INTO outbox (table_name, body) VALUES ('events', ?)", (to_json(body),))
    connection.execute("INSERT INTO told VALUES (?)", (OLD[0].id.bytes,))
    connection.execute("INSERT INTO dead_letters VALUES (1, 'gaps', '{}', '22P05', 'refused', 1.0)")
    connection.close()
    return tmp_path


@pytest.mark.parametrize("added", ["", VERSION_2])
async def test_a_journal_of_an_older_version_goes_on_with_all_that_is_in_it(version_1: Path, added: str) -> None:
    connection = apsw.Connection(str(version_1 / "journal.db"))
    connection.execute(added)
    connection.close()
    async with open_journal(version_1, JournalSettings()) as journal:
        waiting = await journal.recover()
        assert [each.id for each in waiting] == [event.id for event in OLD]
        assert [each.event for each in await journal.lease([event.id for event in OLD])] == OLD
        assert [json.loads(row.body)["event_id"] for row in await journal.outbox(9, 10**6)] == [str(e.id) for e in OLD]
        assert [letter.sqlstate for letter in await journal.dead_letters(9)] == ["22P05"]
        assert not (await journal.accept(OLD[0], replayed=True)).new
        assert await journal.finish([Ending(event.id, EventOutcome.DONE, "") for event in OLD]) == [True] * 5
        assert (await journal.accept(an_event())).new


def test_every_step_changes_the_tables() -> None:
    """So the same tables under another version are damage to the header, never a newer lva's journal."""
    versions = [journal_schema._tables_of(version) for version in range(len(journal_schema.STEPS) + 1)]
    assert all(before != after for before, after in pairwise(versions))


async def test_a_migration_that_fails_has_changed_nothing(version_1: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (*journal_schema.STEPS, "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1)")
    with monkeypatch.context() as patch:
        patch.setattr(journal_schema, "STEPS", steps)
        patch.setattr(journal_schema, "SCHEMA_VERSION", len(steps))
        with pytest.raises(JournalError, match="nowhere"):
            async with open_journal(version_1, JournalSettings()):
                pass
    connection = apsw.Connection(str(version_1 / "journal.db"))
    assert connection.pragma("user_version") == 1
    assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'more'").fetchall()
    connection.close()
    async with open_journal(version_1, JournalSettings()) as journal:
        assert len(await journal.recover()) == 5


@pytest.mark.parametrize("name", ["wal", "at once"])
async def test_a_kill_in_the_middle_of_a_migration_is_harmless(version_1: Path, name: str) -> None:
    """Case 16: killed just before the commit, and just after it."""
    before = name == "wal"
    code = f"""
import os, signal, sys
from pathlib import Path
from pipeline import journal_schema
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
prepare = journal_schema.create
def create(connection):
    if {before}:
        connection.set_commit_hook(die)
    prepare(connection)
    die()
journal_schema.create = create
journal_schema.connect(Path(sys.argv[1]) / "journal.db", 2**24)
"""
    killed = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(version_1))
    assert await killed.wait() == -signal.SIGKILL
    async with open_journal(version_1, JournalSettings()) as journal:
        assert [each.id for each in await journal.recover()] == [event.id for event in OLD]
        assert [each.event for each in await journal.lease([event.id for event in OLD])] == OLD
    assert not list(version_1.glob("journal.db.*"))


async def test_a_journal_of_a_newer_lva_is_refused_and_left_alone_and_the_line_says_what_to_do(tmp_path: Path) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        await journal.accept(an_event())
    connection = apsw.Connection(str(tmp_path / "journal.db"))
    connection.execute("ALTER TABLE events ADD COLUMN colour TEXT; PRAGMA user_version = 99")
    connection.close()
    before = (tmp_path / "journal.db").read_bytes()
    with pytest.raises(JournalError, match=r"newer lva \(version 99 .*this lva knows 2.*install that version again"):
        async with open_journal(tmp_path, JournalSettings()):
            pass
    assert (tmp_path / "journal.db").read_bytes() == before


async def test_every_setting_that_safety_hangs_on_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_journal(tmp_path, JournalSettings()) as journal:
        settings = await journal._do(
            lambda file: {
                name: file.connection.pragma(name)
                for name in ("journal_mode", "synchronous", "foreign_keys", "locking_mode")
            }
        )
    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "locking_mode": "exclusive"}
    monkeypatch.setitem(journal_schema._PRAGMAS, "journal_mode", "memory")
    monkeypatch.setitem(journal_schema._PRAGMAS, "synchronous", "9")
    with pytest.raises(JournalError, match="did not take PRAGMA"):
        async with open_journal(tmp_path, JournalSettings()):
            pass


def test_a_sqlite_that_can_corrupt_its_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apsw, "SQLITE_VERSION_NUMBER", 3_040_001)
    with pytest.raises(JournalError, match=r"3\.51\.3 or newer is needed"):
        journal_schema.connect(tmp_path / "journal.db", 2**24)
    assert not (tmp_path / "journal.db").exists()


def test_only_one_copy_of_sqlite_has_the_journal_open() -> None:
    """POSIX locks belong to the process: another copy, or a plain open(), would drop them."""
    code = "import sys; from pipeline import journal; print('sqlite3' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd())
    assert ran.stdout.strip() == "False"
