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
import structlog

from pipeline.clock import Clock
from pipeline.events import Event, EventOutcome, Priority
from pipeline.journal_outbox import JournalOutbox
from pipeline.journal_reserve import DiskReserve
from pipeline.rows import analysis_row, event_from_row, outcome_row, to_json
from providers.base import Analysis

DEATHS_MAX = 2
_QUARANTINED = "quarantined: the daemon died twice while a worker had this event"
_UNREADABLE = "the journal was damaged where this event stood"

_ROW_BYTES = 16 * 1024
"""What an event takes beside its picture and its text: indices, rows of how it ends, pages not quite full."""

# SQLite has no checksums: values may be of another type than they were, and text no text any more. So what is read
# is cast to what it has to be.

_CLASSES: dict[Any, Priority] = {int(priority): priority for priority in Priority}
"""Damage may have made another number of it; then it is the least urgent."""

log = structlog.get_logger()

_WAITING = """
SELECT event_id, CAST(priority AS INTEGER), CAST(boot_id AS BLOB), CAST(accepted_boot AS REAL),
       CAST(accepted_wall AS REAL)
FROM events WHERE state = 'captured' ORDER BY number
"""
_LEASE = """
UPDATE events SET state = 'leased', attempts = attempts + 1, leased_boot_id = ?
WHERE event_id = ? AND state = 'captured' AND (deaths = 0 OR ?)
RETURNING number, CAST(body AS BLOB), CAST(attempts AS INTEGER), CAST(boot_id AS BLOB), CAST(accepted_boot AS REAL),
          CAST(accepted_wall AS REAL)
"""
_SUSPECT = "SELECT 1 FROM events WHERE event_id = ? AND state = 'captured' AND deaths > 0"
_RECOVER = """
UPDATE events SET state = 'captured', deaths = deaths + (leased_boot_id IS ?) WHERE state = 'leased'
"""
_QUARANTINE = "SELECT event_id FROM events WHERE deaths >= ?"
_RELEASE = """
UPDATE events SET state = 'captured', attempts = attempts - ? WHERE event_id = ? AND state = 'leased'
"""
_TO_SHED = """
SELECT event_id FROM events WHERE state = 'captured' AND priority >= ? ORDER BY priority DESC, number LIMIT 1
"""
_OLDEST = """
SELECT CAST(boot_id AS BLOB), CAST(accepted_boot AS REAL), CAST(accepted_wall AS REAL)
FROM events ORDER BY number LIMIT 1
"""
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


class JournalFile(JournalOutbox):
    """The outbox, and the events from whose ends its rows come."""

    def __init__(
        self, connection: apsw.Connection, clock: Clock, quota_bytes: int, reserve: DiskReserve, site: str
    ) -> None:
        super().__init__(connection, clock, site)
        self._quota_bytes = quota_bytes
        self._page_bytes = int(str(connection.pragma("page_size")))
        self._reserve = reserve
        self._room_bytes = 0
        self.is_short_of_disk = False
        """Whether an event found no room because of the disk, not the quota."""

    def begin(self) -> None:
        """A transaction begins: others may have filled the disk since the last one."""
        self._room_bytes = 0

    def has_room(self, event: Event) -> bool:
        """Whether quota and disk allow one more event like this. Asks only when the last answer is used up."""
        need = len(event.jpeg) + _ROW_BYTES
        if need > self._room_bytes:
            free_bytes = self._pages("freelist_count")
            in_quota = self._quota_bytes - self._pages("page_count") + free_bytes
            on_disk = free_bytes + max(0, self._reserve.room_bytes())
            self._room_bytes = min(in_quota, on_disk)
            self.is_short_of_disk = self.is_short_of_disk or on_disk < min(need, in_quota)
        if need > self._room_bytes:
            return False
        self._room_bytes -= need
        return True

    def _pages(self, which: str) -> int:
        """In bytes."""
        return int(str(self.connection.pragma(which))) * self._page_bytes

    def is_told(self, event_id: UUID) -> bool:
        """Whether it is an event of a recording that was accepted before."""
        return bool(self._rows("SELECT 1 FROM told WHERE event_id=?", (event_id.bytes,)))

    def accept(self, event: Event, body: str, ending: EventOutcome | None, reason: str, replayed: bool) -> None:
        """Take an event in; with `ending`, as one that is over at once.

        `body` is its row: made by the caller, as it costs time that this thread has not.
        """
        key, db = event.id.bytes, self.connection
        if replayed:
            db.execute("INSERT INTO told VALUES (?)", (key,))
        self._send("events", body)
        if ending:
            self._send("outcomes", to_json(outcome_row(event.id, ending, reason, self._clock.now())))
            return
        clock = (self._clock.boot_id, self._clock.boot(), self._clock.wall())
        db.execute(
            "INSERT INTO events (event_id, priority, state, boot_id, accepted_boot, accepted_wall, body)"
            " VALUES (?,?,'captured',?,?,?,?)",
            (key, int(event.priority), *clock, body),
        )
        db.execute("INSERT INTO pictures VALUES (?,?)", (db.last_insert_rowid(), event.jpeg))

    def recover(self) -> None:
        """After a start: what a worker had is waiting again. That the daemon died with it counts, unless the machine
        was booted since: then it was the power."""
        self.connection.execute(_RECOVER, (self._clock.boot_id,))

    def quarantine(self) -> list[UUID]:
        """End the events with which the daemon died too often."""
        quarantined = [UUID(bytes=key) for [key] in self._rows(_QUARANTINE, (DEATHS_MAX,))]
        for event_id in quarantined:
            self.finish(Ending(event_id, EventOutcome.FAILED, _QUARANTINED))
        return quarantined

    def waiting(self) -> list[Waiting]:
        """Every event that waits, oldest first."""
        return [
            Waiting(UUID(bytes=key), _CLASSES.get(priority, Priority.LOW), self._age_s(*accepted))
            for key, priority, *accepted in self._rows(_WAITING)
        ]

    def leased(self) -> list[UUID]:
        return [UUID(bytes=key) for [key] in self._rows(_LEASED)]

    def open_count(self) -> int:
        [[count]] = self._rows(_OPEN_COUNT)
        return int(count)

    def suspects(self, ids: Sequence[UUID]) -> list[UUID]:
        """Those of them that wait, and with which the daemon died before."""
        return [event_id for event_id in ids if self._rows(_SUSPECT, (event_id.bytes,))]

    def lease(self, ids: Sequence[UUID], suspects: bool = False) -> list[Leased]:
        """Give these events to a worker; those that are not waiting any more are left out, and, unless they are
        asked for, the suspects. One that can't be read has failed."""
        return [leased for event_id in ids if (leased := self._lease(event_id, suspects))]

    def _lease(self, event_id: UUID, suspects: bool) -> Leased | None:
        row = self._rows(_LEASE, (self._clock.boot_id, event_id.bytes, suspects))
        if not row:
            return None
        number, body, attempts, *accepted = row[0]
        try:
            [[jpeg]] = self._rows("SELECT jpeg FROM pictures WHERE number=?", (number,))
            event = event_from_row(json.loads(body), jpeg)
            if event.id != event_id:
                raise ValueError(f"it describes {event.id}")
            return Leased(event, attempts, self._age_s(*accepted))
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # SQLite has no checksums: bytes may differ
            log.error("event.unreadable", event_id=str(event_id), reason=f"{type(error).__name__}: {error}")
            self.finish(Ending(event_id, EventOutcome.FAILED, _UNREADABLE))
            return None

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

    def oldest_s(self) -> float:
        """The age of the event that was accepted first of those without an outcome; 0 when there is none."""
        return next((self._age_s(*accepted) for accepted in self._rows(_OLDEST)), 0.0)

    def counts(self) -> dict[str, int]:
        """How much is where."""
        return dict(zip(("waiting", "leased", "outbox", "dead_letters"), self._rows(_COUNTS)[0], strict=True))

    def _age_s(self, boot_id: bytes, boot: float, wall: float) -> float:
        return self._clock.age_s(boot_id.decode("utf-8", "replace"), boot, wall)
