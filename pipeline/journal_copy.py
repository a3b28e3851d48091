"""The rows of a damaged journal, as far as they can be read, into a sound one: each by itself, so that one that
can't be read takes no other with it."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import apsw

from pipeline.clock import Clock
from pipeline.events import EventOutcome, Priority
from pipeline.rows import event_from_row, outcome_row, to_json

PROBES_MAX = 200_000
"""Rows that are looked for one by one, between what can be read from a table's start and what from its end."""

_WORDS = {
    "events": "open events",
    "outbox": "rows on their way",
    "told": "events of recordings",
    "dead_letters": "dead letters",
}
_OUTBOX = "SELECT seq, CAST(table_name AS BLOB), CAST(body AS BLOB) FROM outbox WHERE seq = ?"
_DEAD_LETTER = """
SELECT seq, CAST(table_name AS BLOB), CAST(body AS BLOB), CAST(sqlstate AS BLOB), CAST(reason AS BLOB), failed_wall
FROM dead_letters WHERE seq = ?
"""
_EVENT = """
SELECT event_id, priority, attempts, CAST(boot_id AS BLOB), accepted_boot, accepted_wall, CAST(body AS BLOB)
FROM events WHERE number = ?
"""
_PICTURE = "SELECT jpeg FROM pictures WHERE number = ?"
_INSERT_EVENT = """
INSERT INTO events (number, event_id, priority, state, attempts, boot_id, accepted_boot, accepted_wall, body)
VALUES (?, ?, ?, 'captured', ?, ?, ?, ?, ?)
"""

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
        lost = ", ".join(f"{count} {_WORDS[table]}" for table, count in self.unreadable.items()) or "nothing"
        failed = f"; {self.failed} events lost their picture or description, and have failed" if self.failed else ""
        return f"read: {read}; found but not readable: {lost}{failed}"


class JournalCopy:
    """From `damaged` to `new`, in a transaction of the caller's."""

    def __init__(self, damaged: apsw.Connection, new: apsw.Connection, clock: Clock) -> None:
        self._damaged = damaged
        self._new = new
        self._clock = clock
        self.copied = Copied()

    def all_tables(self) -> Copied:
        """First the rows that were on their way, so that they stay in front of those that are added here."""
        self._rows("outbox", _OUTBOX, "INSERT INTO outbox VALUES (?,?,?)")
        self._rows("dead_letters", _DEAD_LETTER, "INSERT INTO dead_letters VALUES (?,?,?,?,?,?)")
        self._told()
        for number in self._keys("events", "number"):
            self._count("events", self._event(number))
        return self.copied

    def _rows(self, table: str, select: str, insert: str) -> None:
        for seq in self._keys(table, "seq"):
            row = self._row(select, seq)
            self._count(table, row is not None and self._insert(insert, tuple(map(_text, row))))

    def _told(self) -> None:
        for order in ("", "DESC"):
            with suppress(apsw.Error):
                for [key] in self._damaged.execute(f"SELECT event_id FROM told ORDER BY event_id {order}"):
                    if not self._insert("INSERT INTO told VALUES (?)", (key,)):
                        break  # it has been read from the other side
                    self._count("told", True)

    def _event(self, number: int) -> bool:
        """Whether it was read. It has ended if it can't be asked about any more."""
        row = self._row(_EVENT, number)
        if row is None or not isinstance(row[0], bytes) or len(row[0]) != 16:
            return False
        key, priority, attempts, *accepted, body = row[0], *map(_text, row[1:])
        picture = self._row(_PICTURE, number)
        is_event = _is_event(body)
        if is_event:
            self._send("events", body)  # should that row have been among those that are lost; a second one is no harm
        if is_event and picture and isinstance(picture[0], bytes):
            self._insert(_INSERT_EVENT, (number, key, _class_of(priority), _whole(attempts), *accepted, body))
            self._insert("INSERT INTO pictures VALUES (?,?)", (number, picture[0]))
        else:
            self._fail(key, "picture" if is_event else "description")
        return True

    def _fail(self, key: bytes, what: str) -> None:
        reason = f"the journal was damaged where the event's {what} stood"
        self._send("outcomes", to_json(outcome_row(UUID(bytes=key), EventOutcome.FAILED, reason, self._clock.now())))
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

    def _row(self, statement: str, key: int) -> Row | None:
        """None where it can't be read: it, or a page on the way to it, is damaged."""
        try:
            return next(iter(self._damaged.execute(statement, (key,)).fetchall()), None)
        except apsw.Error:
            return None

    def _keys(self, table: str, key: str) -> Iterator[int]:
        """All that can be found: from the start of the table, from its end, and between them one by one."""
        last = 0
        with suppress(apsw.Error):
            for last in self._ascending(f"SELECT {key} FROM {table} WHERE {key} > 0 ORDER BY {key}"):
                yield last
            return
        from_end: list[int] = []
        with suppress(apsw.Error):
            for [number] in self._damaged.execute(f"SELECT {key} FROM {table} ORDER BY {key} DESC"):
                if number <= last:
                    break
                from_end.append(number)
        between = range(last + 1, min([last + 1 + PROBES_MAX, *from_end[-1:]]))
        yield from (number for number in between if self._row(f"SELECT {key} FROM {table} WHERE {key} = ?", number))
        yield from reversed(from_end)

    def _ascending(self, statement: str) -> Iterator[int]:
        """Raises CorruptError also where the order is wrong: damaged pages may lead back to others."""
        last = 0
        for [number] in self._damaged.execute(statement):
            if number <= last:
                raise apsw.CorruptError("keys are out of order")
            last = number
            yield number


def _text(value: Any) -> Any:
    """Text is read as bytes: some of them may be damaged, and the rest is still worth reading."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _class_of(priority: Any) -> int:
    return priority if priority in set(Priority) else int(Priority.LOW)


def _whole(number: Any) -> int:
    return number if isinstance(number, int) else 0


def _is_event(body: Any) -> bool:
    try:
        event_from_row(json.loads(body), b"")
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True
