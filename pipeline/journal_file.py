"""The journal's tables and every transaction on them, in plain blocking calls of one thread.

What is written here is on the disk when the transaction has committed (WAL, synchronous=FULL): that is what
"accepted" means. The way of an event: captured, leased (a worker has it), and gone, when its analysis and its
outcome stand in the outbox. The outbox holds rows for the database until the database has confirmed them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import apsw

from pipeline.clock import Clock
from pipeline.events import Event, EventOutcome, Gap, Priority
from pipeline.rows import alarm_row, analysis_row, dead_letter_row, event_from_row, gap_row, outcome_row, to_json
from pipeline.uploader import OutboxRow
from providers.base import Analysis

_ROW_BYTES = 16 * 1024
"""What an event takes beside its picture and its text: indices, rows of how it ends, pages not quite full."""

_WAITING = """
SELECT event_id, priority, boot_id, accepted_boot, accepted_wall FROM events WHERE state = 'captured' ORDER BY number
"""
_LEASE = """
UPDATE events SET state = 'leased', attempts = attempts + 1 WHERE event_id = ? AND state = 'captured'
RETURNING number, body, attempts, boot_id, accepted_boot, accepted_wall
"""
_RELEASE = """
UPDATE events SET state = 'captured', attempts = attempts - ? WHERE event_id = ? AND state = 'leased'
"""
_TO_SHED = """
SELECT event_id FROM events WHERE state = 'captured' AND priority >= ? ORDER BY priority DESC, number LIMIT 1
"""
_OLDEST = "SELECT boot_id, accepted_boot, accepted_wall FROM events ORDER BY number LIMIT 1"
_LEASED = "SELECT event_id FROM events WHERE state = 'leased'"
_OPEN_COUNT = "SELECT count(*) FROM events"  # without a condition: over the smallest index
_COUNTS = """
SELECT (SELECT count(*) FROM events WHERE state = 'captured'), (SELECT count(*) FROM events WHERE state = 'leased'),
       (SELECT count(*) FROM outbox), (SELECT count(*) FROM dead_letters)
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that has no outcome yet, as the queue needs to know it."""

    id: UUID
    priority: Priority
    age_s: float


@dataclass(frozen=True, slots=True)
class Leased:
    """An event in a worker's hands. `attempts` counts this lease."""

    event: Event
    attempts: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Ending:
    """How an event ends, and the analysis that it ends with, if any."""

    event_id: UUID
    outcome: EventOutcome
    reason: str
    analysis: Analysis | None = None


class JournalFile:
    """Every method is meant to run inside a transaction that the caller commits."""

    def __init__(self, connection: apsw.Connection, clock: Clock, quota_bytes: int, site: str) -> None:
        self.connection = connection
        self._site = site
        self._clock = clock
        self._quota_bytes = quota_bytes
        self._page_bytes = int(str(connection.pragma("page_size")))
        self._room_bytes = 0

    def has_room(self, event: Event) -> bool:
        """Whether the quota allows one more event like this. Asks SQLite only when the last answer is used up."""
        need = len(event.jpeg) + _ROW_BYTES
        if need > self._room_bytes:
            used = int(str(self.connection.pragma("page_count"))) - int(str(self.connection.pragma("freelist_count")))
            self._room_bytes = self._quota_bytes - used * self._page_bytes
        if need > self._room_bytes:
            return False
        self._room_bytes -= need
        return True

    def accept(self, event: Event, body: str, ending: EventOutcome | None, reason: str, replayed: bool) -> bool:
        """Take an event in; with `ending`, as one that is over at once. False: this recording's event is known.

        `body` is its row: made by the caller, as it costs time that this thread has not.
        """
        key, db = event.id.bytes, self.connection
        if replayed:
            if db.execute("SELECT 1 FROM told WHERE event_id=?", (key,)).fetchone():
                return False
            db.execute("INSERT INTO told VALUES (?)", (key,))
        self._send("events", body)
        if ending:
            self._send("outcomes", to_json(outcome_row(event.id, ending, reason, self._clock.now())))
            return True
        clock = (self._clock.boot_id, self._clock.boot(), self._clock.wall())
        db.execute(
            "INSERT INTO events (event_id, priority, state, boot_id, accepted_boot, accepted_wall, body)"
            " VALUES (?,?,'captured',?,?,?,?)",
            (key, int(event.priority), *clock, body),
        )
        db.execute("INSERT INTO pictures VALUES (?,?)", (db.last_insert_rowid(), event.jpeg))
        return True

    def recover(self) -> None:
        """After a start: what a worker had is waiting again."""
        self.connection.execute("UPDATE events SET state='captured' WHERE state='leased'")

    def waiting(self) -> list[Waiting]:
        """Every event that waits, oldest first."""
        return [
            Waiting(UUID(bytes=key), Priority(priority), self._clock.age_s(*accepted))
            for key, priority, *accepted in self._rows(_WAITING)
        ]

    def leased(self) -> list[UUID]:
        return [UUID(bytes=key) for [key] in self._rows(_LEASED)]

    def open_count(self) -> int:
        [[count]] = self._rows(_OPEN_COUNT)
        return int(count)

    def lease(self, ids: Sequence[UUID]) -> list[Leased]:
        """Give these events to a worker; those that are not waiting any more are left out."""
        return [leased for event_id in ids if (leased := self._lease(event_id.bytes))]

    def _lease(self, key: bytes) -> Leased | None:
        row = self._rows(_LEASE, (key,))
        if not row:
            return None
        number, body, attempts, *accepted = row[0]
        [[jpeg]] = self._rows("SELECT jpeg FROM pictures WHERE number=?", (number,))
        return Leased(event_from_row(json.loads(body), jpeg), attempts, self._clock.age_s(*accepted))

    def release(self, asked: Sequence[UUID], not_asked: Sequence[UUID]) -> None:
        """Back to waiting. For those that nobody could even be asked about, the lease counts as no attempt."""
        for ids, counted in ((asked, 0), (not_asked, 1)):
            self.connection.executemany(_RELEASE, ((counted, event_id.bytes) for event_id in ids))

    def finish(self, ending: Ending) -> bool:
        """End an event with its rows; False if it is not open, in which case nothing is written."""
        key = ending.event_id.bytes
        if not self.connection.execute("DELETE FROM events WHERE event_id=? RETURNING 1", (key,)).fetchall():
            return False
        if ending.analysis:
            self._send("analyses", to_json(analysis_row(ending.analysis)))
        self._send("outcomes", to_json(outcome_row(ending.event_id, ending.outcome, ending.reason, self._clock.now())))
        return True

    def shed_one(self, reason: str, not_above: Priority) -> UUID | None:
        """End the oldest waiting event of the least urgent class, if it is no more urgent than `not_above`."""
        found = self._rows(_TO_SHED, (int(not_above),))
        if not found:
            return None
        event_id = UUID(bytes=found[0][0])
        self.finish(Ending(event_id, EventOutcome.SHED, reason))
        return event_id

    def record_gap(self, gap: Gap) -> None:
        self._send("gaps", to_json(gap_row(gap)))

    def alarm(self, kind: str, message: str) -> None:
        self._send("alarms", to_json(alarm_row(self._site, kind, message, self._clock.now())))

    def outbox(self, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        """The oldest rows for the database: at least one if there is any, then as many as the limits allow."""
        rows: list[OutboxRow] = []
        size = 0
        for row in self.connection.execute(
            "SELECT seq, table_name, body FROM outbox ORDER BY seq LIMIT ?", (limit_rows,)
        ):
            size += len(row[2])
            if rows and size > limit_bytes:
                break
            rows.append(OutboxRow(*row))
        return rows

    def uploaded(self, seqs: Sequence[int]) -> None:
        self.connection.executemany("DELETE FROM outbox WHERE seq=?", ((seq,) for seq in seqs))

    def dead_letter(self, row: OutboxRow, sqlstate: str, reason: str) -> None:
        """Move a row that the database refuses aside, and tell the database so in a row of its own."""
        if not self.connection.execute("DELETE FROM outbox WHERE seq=? RETURNING 1", (row.seq,)).fetchall():
            return
        self.connection.execute(
            "INSERT INTO dead_letters (table_name, body, sqlstate, reason, failed_wall) VALUES (?,?,?,?,?)",
            (row.table, row.body, sqlstate, reason, self._clock.wall()),
        )
        if row.table != "dead_letters":
            self._send(
                "dead_letters", to_json(dead_letter_row(row.table, sqlstate, reason, row.body, self._clock.now()))
            )

    def oldest_s(self) -> float:
        """The age of the event that was accepted first of those without an outcome; 0 when there is none."""
        return next((self._clock.age_s(*accepted) for accepted in self._rows(_OLDEST)), 0.0)

    def counts(self) -> dict[str, int]:
        """How much is where."""
        return dict(zip(("waiting", "leased", "outbox", "dead_letters"), self._rows(_COUNTS)[0], strict=True))

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        return self.connection.execute(query, values).fetchall()

    def _send(self, table: str, body: str) -> None:
        self.connection.execute("INSERT INTO outbox (table_name, body) VALUES (?,?)", (table, body))
