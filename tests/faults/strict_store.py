"""A database in memory that fails by script: a strict model of `INSERT … ON CONFLICT DO NOTHING` in a transaction."""

import json
from collections.abc import Sequence
from typing import Any

import asyncpg

from pipeline.uploader import OutboxRow

KEYS = {
    "events": "event_id",
    "analyses": "event_id",
    "outcomes": "event_id",
    "gaps": "gap_id",
    "alarms": "alarm_id",
    "dead_letters": "dead_letter_id",
}

POISON = "poisoned"
"""A row that says so never passes."""

REPLY_CUT = ConnectionResetError("after the commit")

FAULTS: tuple[Exception | None, ...] = (
    None,
    REPLY_CUT,
    ConnectionRefusedError("nobody listens"),
    TimeoutError(),
    asyncpg.QueryCanceledError("statement timeout"),
    asyncpg.TooManyConnectionsError("too many clients"),
    asyncpg.ReadOnlySQLTransactionError("a failover"),
    asyncpg.InsufficientPrivilegeError("no right"),
    asyncpg.UndefinedColumnError("a column is missing"),
)
"""None of them is the fault of a row."""

Tables = dict[str, dict[str, dict[str, Any]]]


class StrictStore:
    """A row that arrives twice must be the same both times: where it differs, the real database keeps the first and
    says nothing; this one keeps the pair in `contradictions`."""

    def __init__(self, tables: Tables | None = None) -> None:
        self.tables = tables or {table: {} for table in KEYS}
        self.contradictions: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self.faults: list[Exception | None] = []
        """Of the next inserts, one each."""

    def copy(self) -> Tables:
        return {table: dict(rows) for table, rows in self.tables.items()}

    async def insert(self, rows: Sequence[OutboxRow]) -> None:
        fault = self.faults.pop(0) if self.faults else None
        if fault and fault is not REPLY_CUT:
            raise fault
        if any(POISON in row.body and row.table != "dead_letters" for row in rows):
            raise asyncpg.CharacterNotInRepertoireError("invalid byte sequence")
        for row in rows:
            self._add(row.table, json.loads(row.body))
        if fault:
            raise fault

    async def start_afresh(self) -> None:
        """There is nothing to forget."""

    def _add(self, table: str, row: dict[str, Any]) -> None:
        there = self.tables[table].setdefault(row[KEYS[table]], row)
        if there != row:
            self.contradictions.append((there, row))
