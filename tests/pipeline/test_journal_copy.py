"""Rows as damage may make them, out of tables that do not mind, into the tables of a journal, which do."""

import json
from collections.abc import Iterator
from typing import Any

import apsw
import pytest

from pipeline.clock import Clock, Moment
from pipeline.events import Event
from pipeline.journal_copy import Copied, JournalCopy
from pipeline.journal_errors import is_corruption, is_damage, is_full
from pipeline.journal_schema import create
from pipeline.rows import event_row, to_json
from tests.pipeline.makers import NOW, an_event

ANYTHING_GOES = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY, event_id, priority, attempts, boot_id, accepted_boot, accepted_wall, body
);
CREATE TABLE pictures (number INTEGER PRIMARY KEY, jpeg);
CREATE TABLE outbox (seq INTEGER PRIMARY KEY, table_name, body);
CREATE TABLE told (event_id);
CREATE TABLE dead_letters (seq INTEGER PRIMARY KEY, table_name, body, sqlstate, reason, failed_wall);
"""


@pytest.fixture
def damaged() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    connection.execute(ANYTHING_GOES)
    yield connection
    connection.close()


@pytest.fixture
def new() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    create(connection)
    yield connection
    connection.close()


def put(connection: apsw.Connection, number: int, event: Event, **changes: Any) -> None:
    values: dict[str, Any] = {
        "number": number,
        "event_id": event.id.bytes,
        "priority": 2,
        "attempts": 1,
        "boot_id": "a boot",
        "accepted_boot": 1.0,
        "accepted_wall": 2.0,
        "body": to_json(event_row(event, Moment(NOW))),
    } | changes
    connection.execute("INSERT INTO events VALUES (?,?,?,?,?,?,?,?)", tuple(values.values()))
    connection.execute("INSERT INTO pictures VALUES (?,?)", (number, changes.get("jpeg", event.jpeg)))


def copied(damaged: apsw.Connection, new: apsw.Connection) -> Copied:
    return JournalCopy(damaged, new, Clock()).all_tables()


def test_a_row_that_no_table_takes_is_counted_and_holds_up_none_of_the_others(
    damaged: apsw.Connection, new: apsw.Connection
) -> None:
    for seq, body in enumerate(("{}", None, "{}"), 1):
        damaged.execute("INSERT INTO outbox VALUES (?, 'gaps', ?)", (seq, body))
    damaged.execute("INSERT INTO dead_letters VALUES (1, 'gaps', '{}', NULL, '', 1.0)")
    damaged.execute("INSERT INTO told VALUES (x'01'), (NULL), (x'02')")
    told = copied(damaged, new)
    assert (told.read["outbox"], told.unreadable["outbox"]) == (2, 1)
    assert (told.read["told"], told.unreadable["told"]) == (2, 1)
    assert "found but not readable: 1 rows on their way, 1 dead letters, 1 events of recordings" in told.sentence()
    assert new.execute("SELECT seq FROM outbox").fetchall() == [(1,), (3,)]


@pytest.mark.parametrize("key", [None, b"short", "text of sixteen!", 7])
def test_an_event_without_an_id_is_only_counted(damaged: apsw.Connection, new: apsw.Connection, key: Any) -> None:
    put(damaged, 1, an_event(), event_id=key)
    told = copied(damaged, new)
    assert (told.read["events"], told.unreadable["events"]) == (0, 1)
    assert not new.execute("SELECT 1 FROM events").fetchall()


@pytest.mark.parametrize(
    "change",
    [{"boot_id": None}, {"accepted_boot": "x"}, {"accepted_wall": None}, {"attempts": "many"}, {"priority": 9}],
)
def test_an_event_whose_numbers_are_none_waits_all_the_same(
    damaged: apsw.Connection, new: apsw.Connection, change: dict[str, Any]
) -> None:
    event = an_event()
    put(damaged, 1, event, **change)
    assert copied(damaged, new).read["events"] == 1
    [[key, state, priority, attempts, boot, wall]] = new.execute(
        "SELECT event_id, state, priority, attempts, accepted_boot, accepted_wall FROM events"
    ).fetchall()
    assert (key, state) == (event.id.bytes, "captured")
    assert isinstance(attempts, int)
    assert isinstance(boot, float)
    assert isinstance(wall, float)
    assert priority in (2, 3)


def test_an_event_that_stands_there_twice_is_one(damaged: apsw.Connection, new: apsw.Connection) -> None:
    event = an_event()
    put(damaged, 1, event)
    put(damaged, 2, event)
    copied(damaged, new)
    assert new.execute("SELECT number FROM events").fetchall() == [(1,)]
    assert new.execute("SELECT number FROM pictures").fetchall() == [(1,)]


@pytest.mark.parametrize("jpeg", [None, "a text", 7])
def test_an_event_whose_picture_is_none_has_failed(damaged: apsw.Connection, new: apsw.Connection, jpeg: Any) -> None:
    event = an_event()
    put(damaged, 1, event)
    damaged.execute("UPDATE pictures SET jpeg = ?", (jpeg,))
    told = copied(damaged, new)
    assert told.failed == 1
    assert "1 events lost their picture or description, and have failed" in told.sentence()
    rows = [(table, json.loads(body)) for table, body in new.execute("SELECT table_name, body FROM outbox")]
    assert [(table, row["event_id"]) for table, row in rows] == [("events", str(event.id)), ("outcomes", str(event.id))]


def an_io_error(exactly: int) -> apsw.IOError:
    error = apsw.IOError("told to")
    error.extendedresult = exactly  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "at_opening", "at_work"),
    [
        (apsw.CorruptError(""), True, True),
        (apsw.NotADBError(""), True, True),
        (apsw.ReadOnlyError(""), True, True),
        (an_io_error(apsw.SQLITE_IOERR_READ), True, True),
        (an_io_error(apsw.SQLITE_IOERR_CORRUPTFS), True, True),
        (apsw.SQLError("unsupported file format"), True, False),
        (UnicodeDecodeError("utf-8", b"", 0, 1, ""), True, False),
        (an_io_error(apsw.SQLITE_IOERR_FSYNC), False, False),
        (an_io_error(apsw.SQLITE_IOERR_WRITE), False, False),
        (apsw.FullError(""), False, False),
        (apsw.CantOpenError(""), False, False),
        (apsw.BusyError(""), False, False),
        (OSError(5, "Input/output error"), False, False),
        (ZeroDivisionError(), False, False),
    ],
)
def test_what_an_error_says_of_the_file(error: Exception, at_opening: bool, at_work: bool) -> None:
    assert (is_damage(error), is_corruption(error)) == (at_opening, at_work)
    assert is_full(error, 0) == isinstance(error, apsw.FullError)
