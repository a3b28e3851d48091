"""The journal's tables, how they came about, and how safely SQLite writes them."""

from contextlib import closing, suppress
from pathlib import Path

import apsw

from pipeline.journal_errors import JournalDamagedError, JournalNewerError, is_corruption, is_damage
from pipeline.journal_errors import JournalError as JournalError
from pipeline.journal_errors import JournalFullError as JournalFullError
from pipeline.journal_log import PAGE_BYTES, WriteAheadLog
from pipeline.journal_rewrite import write_again

APPLICATION_ID = 0x6C766131  # "lva1"
OLDEST_SAFE_SQLITE = 3_051_003
"""Before 3.51.3 a reset of the write-ahead log could corrupt the file."""

RESERVE_BYTES = 8 * 2**20
"""Above the quota, for the rows that tell what had to be given up: SQLite itself refuses only beyond."""

LOG_BYTES_MAX = 16 * 2**20
"""The write-ahead log is cut to this when it starts anew."""

_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "temp_store": 2}
"""temp_store: SQLite needs no other folder, which could be full, or not be there."""

STEPS = (
    """
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
    """,
    """
    ALTER TABLE events ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;  -- how often the daemon died with it in hand
    ALTER TABLE events ADD COLUMN leased_boot_id TEXT;  -- a power cut is another boot, and nobody's fault
    """,
)
"""Each brings the file to the next version. What was released is never changed, not even its comments, which are in
every file: another text is damage. A new step is added, and changes the tables: the same ones under another version
are damage, too."""

SCHEMA_VERSION = len(STEPS)


def connect(path: Path, quota_bytes: int, vfs: str | None = None) -> apsw.Connection:
    """Open or create the journal, and see that it is sound; that reads the whole file. The last version of an older
    lva is brought up to date. Raises JournalDamagedError, or JournalError with what is wrong."""
    if apsw.SQLITE_VERSION_NUMBER < OLDEST_SAFE_SQLITE:
        raise JournalError(
            f"SQLite {apsw.sqlite_lib_version()} can corrupt a write-ahead log; 3.51.3 or newer is needed"
        )
    says_damaged = is_damage  # until it is known to be sound, SQL that is right can only fail at what it reads
    connection = None
    try:
        log = WriteAheadLog.of(path)  # before SQLite has it open: whoever closes a file drops SQLite's locks on it
        connection = apsw.Connection(str(path), vfs=vfs)
        connection.set_busy_timeout(0)
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        _check_owner(connection)
        _check_sound(path, connection, log)
        says_damaged = is_corruption
        _prepare(connection, quota_bytes + RESERVE_BYTES)
        _work_in_log(path, connection, vfs)
        create(connection)
    except (OSError, apsw.Error, UnicodeDecodeError, JournalError) as error:
        if connection:
            close_as_it_is(connection)
        if isinstance(error, JournalError):
            raise type(error)(f"{path}: {error}") from error
        raise (JournalDamagedError if says_damaged(error) else JournalError)(f"{path}: {error}") from error
    return connection


def suspect(path: Path, reason: str) -> None:
    """At work SQLite found the file damaged: the next start must not believe a check that finds nothing."""
    with suppress(OSError):
        mark_of(path).write_text(reason)


def mark_of(path: Path) -> Path:
    """Of a journal that is suspect."""
    return path.with_name(f"{path.name}.suspect")


def close_as_it_is(connection: apsw.Connection) -> None:
    """Without SQLite's last checkpoint: what is wrong with a file or its disk is not written on."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    connection.close()


def create(connection: apsw.Connection) -> None:
    """All tables of the newest version in an empty database, or what an older one lacks; in one transaction."""
    version = int(str(connection.pragma("user_version")))
    if version == SCHEMA_VERSION:
        return
    with connection:
        for step in STEPS[version:]:
            connection.execute(step)
        connection.pragma("application_id", APPLICATION_ID)
        connection.pragma("user_version", SCHEMA_VERSION)


def is_ours(connection: apsw.Connection) -> bool:
    """Whether its tables are those of some version that we know, to the letter."""
    return any(_tables(connection) == _tables_of(version) for version in range(1, SCHEMA_VERSION + 1))


def _tables(connection: apsw.Connection) -> set[tuple[str, str]]:
    """And indices: their names, and how they were made, but for white space."""
    found = connection.execute("SELECT name, coalesce(sql, '') FROM sqlite_master").fetchall()
    return {(str(name), " ".join(str(sql).split())) for name, sql in found}


def _tables_of(version: int) -> set[tuple[str, str]]:
    with closing(apsw.Connection(":memory:")) as fresh:
        for step in STEPS[:version]:
            fresh.execute(step)
        return _tables(fresh)


def _check_owner(connection: apsw.Connection) -> None:
    """Before anything is changed: is it empty, or ours, and of a version that we know?"""
    version, application = int(str(connection.pragma("user_version"))), connection.pragma("application_id")
    tables = _tables(connection)
    if not tables:
        return
    if application == APPLICATION_ID and 1 <= version <= SCHEMA_VERSION:
        if tables != _tables_of(version):
            raise JournalDamagedError(f"its tables are not those of version {version}")
    elif is_ours(connection) or (application == APPLICATION_ID and version < 1):
        raise JournalDamagedError(f"its header says application {application}, version {version}")
    elif application != APPLICATION_ID:
        raise JournalError("is a database of something else; lva leaves it alone: move it away")
    else:
        raise JournalNewerError(
            f"was written by a newer lva (version {version} of the journal, this lva knows {SCHEMA_VERSION}):"
            " install that version again, or a newer one"
        )


def _check_sound(path: Path, connection: apsw.Connection, log: WriteAheadLog) -> None:
    """integrity_check rather than quick_check: it compares the indices too, which here are small."""
    [[said]] = connection.execute("PRAGMA integrity_check(1)").fetchall()
    if said != "ok":
        raise JournalDamagedError(" ".join(str(said).split()))
    recovered, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
    if log.is_damaged(recovered=max(0, recovered)):
        raise JournalDamagedError(f"its write-ahead log can be read only up to part {recovered} of {log.last_commit}")
    if (odd := path.stat().st_size % log.page_bytes) and not log.has_last_page(path.stat().st_size):
        raise JournalDamagedError(f"its last page has only {odd} bytes")
    if mark_of(path).exists():
        raise JournalDamagedError(mark_of(path).read_text(errors="replace") or "SQLite found it damaged before")


def _prepare(connection: apsw.Connection, most_bytes: int) -> None:
    connection.pragma("page_size", PAGE_BYTES)
    for name, wanted in _PRAGMAS.items():
        connection.pragma(name, wanted)
        if (given := connection.pragma(name)) != wanted:
            raise JournalError(f"SQLite did not take PRAGMA {name}={wanted}: it says {given}")
    connection.pragma("journal_size_limit", LOG_BYTES_MAX)
    connection.pragma("max_page_count", most_bytes // int(str(connection.pragma("page_size"))))


def _work_in_log(path: Path, connection: apsw.Connection, vfs: str | None) -> None:
    """What an earlier run left in the write-ahead log becomes part of the file."""
    with suppress(apsw.FullError):  # later, then
        write_again(path.with_name(f"{path.name}-wal"), vfs)
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
