"""The journal's file: its tables, how safely it is written, and whose it is."""

import os
from pathlib import Path

import apsw

APPLICATION_ID = 0x6C766131  # "lva1"
SCHEMA_VERSION = 1
OLDEST_SAFE_SQLITE = 3_051_003
"""Before 3.51.3 a reset of the write-ahead log could corrupt the file."""

RESERVE_BYTES = 8 * 2**20
"""Above the quota, for the rows that tell what had to be given up: SQLite itself refuses only beyond."""

_PAGE_BYTES = 8192
"""Of a new file. Pictures of some 60 KB are written about a fifth faster than in SQLite's usual 4 KB (`lva bench`)."""

_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "wal_autocheckpoint": 1000}

_SCHEMA = """
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
"""


class JournalError(Exception):
    """The journal can't be used; nothing can be accepted."""


class JournalFullError(JournalError):
    """There is no room left, not even for the row that would say so. What was accepted before is safe."""


def connect(path: Path, quota_bytes: int, vfs: str | None = None) -> apsw.Connection:
    """Open or create the journal. Raises JournalError with what is wrong."""
    if apsw.SQLITE_VERSION_NUMBER < OLDEST_SAFE_SQLITE:
        raise JournalError(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a write-ahead log; 3.51.3 or newer is needed"
        )
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite's other files take its mode
        connection = apsw.Connection(str(path), vfs=vfs)
    except (OSError, apsw.Error) as error:
        raise JournalError(f"{path}: {error}") from error
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # before the first read: no shared memory from then on
        _check_owner(connection)
        _prepare(connection, quota_bytes + RESERVE_BYTES)
    except (apsw.Error, JournalError) as error:
        connection.close()
        raise JournalError(f"{path}: {error}") from error
    return connection


def _check_owner(connection: apsw.Connection) -> None:
    """Before anything is changed: is it empty, or ours, and of a version that we know?"""
    version, application = connection.pragma("user_version"), connection.pragma("application_id")
    is_empty = not connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    if not is_empty and (application, version) != (APPLICATION_ID, SCHEMA_VERSION):
        raise JournalError(
            f"is no journal of this version: application {application}, schema {version}, expected {SCHEMA_VERSION}"
        )


def _prepare(connection: apsw.Connection, most_bytes: int) -> None:
    connection.set_busy_timeout(0)
    connection.pragma("page_size", _PAGE_BYTES)
    for name, wanted in _PRAGMAS.items():
        connection.pragma(name, wanted)
        if (given := connection.pragma(name)) != wanted:
            raise JournalError(f"SQLite did not take PRAGMA {name}={wanted}: it says {given}")
    connection.pragma("journal_size_limit", 16 * 2**20)
    connection.pragma("max_page_count", most_bytes // int(str(connection.pragma("page_size"))))
    if connection.pragma("user_version") == 0:
        with connection:
            connection.execute(_SCHEMA)
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", SCHEMA_VERSION)
