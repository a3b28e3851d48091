"""The rows of a damaged journal, as far as they can be read, into a sound one: each by itself, so that one that
can't be read takes no other with it."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any
from uuid import UUID

import apsw

from pipeline.clock import Clock
from pipeline.events import EventOutcome, Priority
from pipeline.rows import event_from_row, outcome_row, to_json

ROWS_MAX = 1_000_000
"""Of a table, so that damaged pages which lead back to themselves are left again."""
NEARBY = 1000
"""Keys that are tried beyond the last one that was found."""

_WORDS = {
    "events": "open events",
    "outbox": "rows on their way",
    "told": "events of recordings",
    "dead_letters": "dead letters",
}
_OUTBOX = "SELECT seq, CAST(table_name AS BLOB), CAST(body AS BLOB) FROM outbox"
_DEAD_LETTERS = """
SELECT seq, CAST(table_name AS BLOB), CAST(body AS BLOB), CAST(sqlstate AS BLOB), CAST(reason AS BLOB),
       CAST(failed_wall AS REAL)
FROM dead_letters
"""
_EVENTS = """
SELECT number, event_id, CAST(priority AS INTEGER), CAST(attempts AS INTEGER), CAST(boot_id AS BLOB),
       CAST(accepted_boot AS REAL), CAST(accepted_wall AS REAL), CAST(body AS BLOB)
FROM events
"""
_PICTURES = "SELECT number, jpeg FROM pictures"
_INSERT_EVENT = """
INSERT INTO events (number, event_id, priority, state, attempts, boot_id, accepted_boot, accepted_wall, body)
VALUES (?, ?, ?, 'captured', ?, ?, ?, ?, ?)
"""

_UNREADABLE = (apsw.Error, UnicodeDecodeError)

Row = tuple[Any, ...]


@dataclass(slots=True)
class Copied:
    """How many rows of each table were read, how many were found and could not be, and how many events ended as
    failed because their picture or description could not."""

    read: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    failed: int = 0

    def sentence(self) -> str:
        read = ", ".join(f"{self.read[table]} {words}" for table, words in _WORDS.items())
        lost = ", ".join(f"{count} {_WORDS[table]}" for table, count in self.unreadable.items() if count)
        failed = f"; {self.failed} events lost their picture or description, and have failed" if self.failed else ""
        return f"read: {read}; found but not readable: {lost or 'nothing'}{failed}"


class JournalCopy:
    """From `damaged` to `new`, in a transaction of the caller's."""

    def __init__(self, damaged: apsw.Connection, new: apsw.Connection, clock: Clock) -> None:
        self._damaged = damaged
        self._new = new
        self._clock = clock
        self.copied = Copied()

    def all_tables(self) -> Copied:
        """First the rows that were on their way, so that they stay in front of those that are added here."""
        for row in self._rows("outbox", _OUTBOX, "seq"):
            self._count("outbox", self._insert("INSERT INTO outbox VALUES (?,?,?)", _texts(row)))
        for row in self._rows("dead_letters", _DEAD_LETTERS, "seq"):
            self._count("dead_letters", self._insert("INSERT INTO dead_letters VALUES (?,?,?,?,?,?)", _texts(row)))
        for number, key, *rest in self._rows("events", _EVENTS, "number"):
            self._count("events", self._event(number, key, *_texts(rest)))
        self._told()
        return self.copied

    def _event(self, number: int, key: Any, priority: Any, attempts: Any, *rest: Any) -> bool:
        """Whether it was read. It has ended if it can't be asked about any more."""
        if not isinstance(key, bytes) or len(key) != 16:
            return False
        *accepted, body = rest
        event_id, picture, described = UUID(bytes=key), self._row(_PICTURES, "number", number), _id_in(body)
        if described:
            self._send("events", body)  # should that row have been among those that are lost; a second one is no harm
        if described != event_id:  # it is not known which of them is damaged
            for either in {event_id, described or event_id}:
                self._fail(either, "description")
        elif not (picture and isinstance(picture[1], bytes)):
            self._fail(event_id, "picture")
        elif self._insert(
            _INSERT_EVENT, (number, key, _class_of(priority), _whole(attempts), *self._times(*accepted), body)
        ):
            self._insert("INSERT INTO pictures VALUES (?,?)", picture)
        return True

    def _times(self, boot_id: Any, boot: Any, wall: Any) -> Row:
        """When it was accepted; now, where that can't be."""
        if isinstance(boot_id, str) and isinstance(boot, float) and isinstance(wall, float):
            return boot_id, boot, wall
        return self._clock.boot_id, self._clock.boot(), self._clock.wall()

    def _told(self) -> None:
        """The keys themselves are all there is."""
        keys: set[bytes] = set()
        for order in ("", "DESC"):
            self._scan(f"SELECT event_id FROM told ORDER BY event_id {order}", keys)
        for key in keys:
            self._count("told", self._insert("INSERT INTO told VALUES (?)", (key,)))

    def _fail(self, event_id: UUID, what: str) -> None:
        reason = f"the journal was damaged where the event's {what} stood"
        self._send("outcomes", to_json(outcome_row(event_id, EventOutcome.FAILED, reason, self._clock.now())))
        self.copied.failed += 1

    def _send(self, table: str, body: str) -> None:
        self._new.execute("INSERT INTO outbox (table_name, body) VALUES (?,?)", (table, body))

    def _insert(self, statement: str, values: Row) -> bool:
        """False where a value is none that the table takes, or the row is there already."""
        try:
            self._new.execute(statement, values)
        except (apsw.ConstraintError, apsw.MismatchError):
            return False
        return True

    def _count(self, table: str, was_read: bool) -> None:
        (self.copied.read if was_read else self.copied.unreadable)[table] += 1

    def _rows(self, table: str, select: str, key: str) -> Iterator[Row]:
        """Each that can be read: by its key, or else on the way through the table."""
        keys, missed = self._keys(table, key), set()
        for number in sorted(keys):
            row = self._row(select, key, number)
            if row is None:
                missed.add(number)
            else:
                yield row
        found: dict[int, Row] = {}
        for order in ("", "DESC") if missed else ():
            with suppress(*_UNREADABLE):
                for row in islice(self._damaged.execute(f"{select} ORDER BY {key} {order}"), ROWS_MAX):
                    found.setdefault(row[0], row)
        yield from (found[number] for number in sorted(missed & found.keys()))
        self.copied.unreadable[table] += len(missed - found.keys())

    def _row(self, select: str, key: str, number: int) -> Row | None:
        """None where it can't be read: it, or a page on the way to it, is damaged."""
        try:
            return next(iter(self._damaged.execute(f"{select} WHERE {key} = ?", (number,)).fetchall()), None)
        except _UNREADABLE:
            return None

    def _keys(self, table: str, key: str) -> set[int]:
        """All that can be found: from the start of the table, from its end, and between them one by one."""
        keys: set[int] = set()
        if self._scan(f"SELECT {key} FROM {table} ORDER BY {key}", keys):
            return keys
        self._scan(f"SELECT {key} FROM {table} ORDER BY {key} DESC", keys)
        first = min(keys, default=1)
        for number in range(first, min(max(keys, default=0) + NEARBY, first + ROWS_MAX)):
            if number not in keys and self._row(f"SELECT {key} FROM {table}", key, number):
                keys.add(number)
        return keys

    def _scan(self, statement: str, into: set[Any]) -> bool:
        """False where it breaks off, or the order is wrong: damaged pages may lead back to others, without end."""
        before = None
        is_whole = True
        try:
            for [key] in islice(self._damaged.execute(statement), ROWS_MAX):
                is_whole = is_whole and key not in into and (before is None or (key > before) != ("DESC" in statement))
                into.add(before := key)
        except (*_UNREADABLE, TypeError):
            return False
        return is_whole


def _texts(row: Iterable[Any]) -> Row:
    """Text is read as bytes, as some of them may be damaged."""
    return tuple(map(_text, row))


def _text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _class_of(priority: Any) -> int:
    return priority if priority in set(Priority) else int(Priority.LOW)


def _whole(number: Any) -> int:
    return number if isinstance(number, int) else 0


def _id_in(body: Any) -> UUID | None:
    """Of the event that is described there, if one is."""
    try:
        return event_from_row(json.loads(body), b"").id
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
