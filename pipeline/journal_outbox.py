"""The journal's rows on their way to the database, in plain blocking calls of one thread."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apsw

from pipeline.clock import Clock
from pipeline.events import Gap
from pipeline.migrations import TABLES
from pipeline.rows import alarm_row, dead_letter_row, gap_row, to_json
from pipeline.uploader import OutboxRow

_DATA_CORRUPTED = "XX001"

_OUTBOX = "SELECT seq, CAST(table_name AS BLOB), CAST(body AS BLOB) FROM outbox ORDER BY seq LIMIT ?"
_DEAD_LETTERS = """
SELECT seq, CAST(table_name AS BLOB), CAST(sqlstate AS BLOB), CAST(reason AS BLOB),
       CAST(failed_wall AS REAL), CAST(body AS BLOB)
FROM dead_letters ORDER BY seq LIMIT ?
"""
_RETRY = "DELETE FROM dead_letters WHERE seq = ? RETURNING CAST(table_name AS BLOB), CAST(body AS BLOB)"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row that the database refused. `failed_at` is Unix time."""

    seq: int
    table: str
    sqlstate: str
    reason: str
    failed_at: float
    body: str


class JournalOutbox:
    """Rows stay until the database has confirmed them; those that it refuses are put aside, whole. Every method is
    meant to run inside a transaction that the caller commits."""

    def __init__(self, connection: apsw.Connection, clock: Clock, site: str) -> None:
        self.connection = connection
        self._clock = clock
        self._site = site

    def record_gap(self, gap: Gap) -> None:
        self._send("gaps", to_json(gap_row(gap)))

    def alarm(self, kind: str, message: str) -> None:
        self._send("alarms", to_json(alarm_row(self._site, kind, message, self._clock.now())))

    def outbox(self, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        """The oldest rows for the database: at least one if there is any, then as many as the limits allow."""
        rows: list[OutboxRow] = []
        size = 0
        for row in self._outbox_rows(limit_rows):
            size += len(row.body)
            if rows and size > limit_bytes:
                break
            rows.append(row)
        return rows

    def _outbox_rows(self, limit_rows: int) -> Iterator[OutboxRow]:
        """Bytes that are no text any more, the database may refuse; but of no table it would wait for ever."""
        for seq, table, body in self._rows(_OUTBOX, (limit_rows,)):
            row = OutboxRow(seq, _text(table), _text(body))
            if row.table in TABLES:
                yield row
            else:
                self.dead_letter(row, _DATA_CORRUPTED, "the journal was damaged where the name of its table stood")

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

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """The oldest of them."""
        return [DeadLetter(*map(_text, row)) for row in self._rows(_DEAD_LETTERS, (limit,))]

    def retry_dead_letters(self, seqs: Sequence[int] | None) -> int:
        """Put these, or all, at the end of the outbox, and say how many there were."""
        chosen = self._rows("SELECT seq FROM dead_letters") if seqs is None else [(seq,) for seq in seqs]
        return sum(self._retry_dead_letter(seq) for [seq] in chosen)

    def _retry_dead_letter(self, seq: int) -> bool:
        found = self._rows(_RETRY, (seq,))
        for table, body in found:
            self._send(_text(table), _text(body))
        return bool(found)

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Any]:
        return self.connection.execute(query, values).fetchall()

    def _send(self, table: str, body: str) -> None:
        self.connection.execute("INSERT INTO outbox (table_name, body) VALUES (?,?)", (table, body))


def _text(value: Any) -> Any:
    """Text that was read as bytes: SQLite has no checksums, and what is damaged of it must not hold up the rest."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
