"""Accepting events against raw SQLite, and uploading rows against raw asyncpg, of the same bytes."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import asyncpg

from daemon.bench.figures import Figure, at_least, median_ratio
from daemon.bench.material import Material
from daemon.embedded import embedded_postgres
from pipeline.clock import Moment
from pipeline.events import Event, EventKind, Priority
from pipeline.identity import fresh_id
from pipeline.journal import JournalSettings, open_journal
from pipeline.journal_commands import GROUP_MAX
from pipeline.rows import event_row, to_json
from pipeline.store import DatabaseSettings, open_store
from pipeline.uploader import OutboxRow, Uploader
from providers.base import Box, Detection

ROUNDS = 5
EVENTS = 2000
JPEG_BYTES = 60_000
ROWS = 20_000
BATCH_ROWS = 200


async def measure(material: Material) -> AsyncIterator[Figure]:
    yield await _accepts(material.scratch)
    yield await _upload(material.scratch)


def _event() -> Event:
    now = datetime.now(UTC)
    detections = tuple(Detection("person", 0.9, Box(0.1, 0.2, 0.3, 0.6), track_id) for track_id in range(3))
    return Event(
        fresh_id(), "bench", "yard", EventKind.OBJECT_APPEARED, Priority.MEDIUM, "person appeared, 90% sure", now, now,
        detections, "person", 1, None, os.urandom(JPEG_BYTES),
    )  # fmt: skip


async def _accepts(scratch: Path) -> Figure:
    events = [_event() for _ in range(EVENTS)]
    ours, raw = [], []
    for turn in range(ROUNDS):
        ours.append(await _journal_accepts(scratch / f"accept{turn}", events))
        raw.append(await asyncio.to_thread(_raw_accepts, scratch / f"raw{turn}.db", events))
    detail = f"{max(ours):.0f} against {max(raw):.0f} events/s, 60 KB JPEG, WAL, synchronous=FULL"
    return at_least("accepted events/s against raw SQLite group commit", median_ratio(ours, raw), 0.8, detail)


async def _journal_accepts(folder: Path, events: list[Event]) -> float:
    async with open_journal(folder, JournalSettings(quota_mb=4096)) as journal:
        started = time.perf_counter()
        await asyncio.gather(*(journal.accept(event) for event in events))
        return len(events) / (time.perf_counter() - started)


def _raw_accepts(file: Path, events: list[Event]) -> float:
    """The same bytes in the same kind of transactions, and nothing else."""
    rows = [(event.id.bytes, to_json(event_row(event, Moment(event.captured_at))), event.jpeg) for event in events]
    db = apsw.Connection(str(file))
    db.execute("PRAGMA journal_mode=wal; PRAGMA synchronous=FULL; PRAGMA locking_mode=EXCLUSIVE")
    db.execute("CREATE TABLE events (number INTEGER PRIMARY KEY, id BLOB, body TEXT, jpeg BLOB)")
    started = time.perf_counter()
    for start in range(0, len(rows), GROUP_MAX):
        with db:
            db.executemany("INSERT INTO events (id, body, jpeg) VALUES (?,?,?)", rows[start : start + GROUP_MAX])
    return len(rows) / (time.perf_counter() - started)


class Memory:
    """An outbox without a disk: the uploader's own cost is what is measured."""

    def __init__(self, rows: list[OutboxRow]) -> None:
        self.rows = rows

    async def wait_outbox(self) -> None:
        return

    async def outbox(self, limit_rows: int, limit_bytes: int) -> list[OutboxRow]:
        return self.rows[:limit_rows]

    async def uploaded(self, seqs: Any) -> None:
        del self.rows[: len(seqs)]

    async def dead_letter(self, row: OutboxRow, sqlstate: str, reason: str) -> None:
        raise AssertionError(f"{sqlstate}: {reason}")


async def _upload(scratch: Path) -> Figure:
    bodies = [to_json(event_row(_event(), Moment(datetime.now(UTC)))) for _ in range(ROWS)]
    ours, raw = [], []
    async with embedded_postgres(scratch / "upload") as embedded:
        for _ in range(ROUNDS):
            ours.append(await _our_upload(embedded.dsn, bodies))
            raw.append(await _raw_upload(embedded.dsn, bodies))
    detail = f"{max(ours):.0f} against {max(raw):.0f} rows/s in batches of {BATCH_ROWS}"
    return at_least("uploaded rows/s against raw asyncpg INSERT … SELECT unnest", median_ratio(ours, raw), 0.7, detail)


async def _our_upload(dsn: str, bodies: list[str]) -> float:
    rows = [OutboxRow(seq, "events", body) for seq, body in enumerate(bodies)]
    async with open_store(DatabaseSettings(), dsn) as store:
        await store.insert(rows[:1])
        await _empty(dsn)
        uploader = Uploader(Memory(rows), store, batch_rows=BATCH_ROWS)
        started = time.perf_counter()
        if not await uploader.flush():
            raise RuntimeError(uploader.state.trouble)
        return len(bodies) / (time.perf_counter() - started)


_COLUMNS = {
    "event_id": "uuid", "site": "text", "camera": "text", "kind": "text", "priority": "text", "reason": "text",
    "label": "text", "track_id": "bigint", "related_id": "uuid", "detections": "jsonb", "captured_at": "timestamptz",
    "detected_at": "timestamptz", "accepted_at": "timestamptz",
}  # fmt: skip


async def _raw_upload(dsn: str, bodies: list[str]) -> float:
    """Columns ready in memory, one array each; only the sending is timed."""
    await _empty(dsn)
    rows = [_typed(json.loads(body)) for body in bodies]
    arrays = ", ".join(f"${index + 1}::{kind}[]" for index, kind in enumerate(_COLUMNS.values()))
    statement = f"INSERT INTO events ({', '.join(_COLUMNS)}) SELECT * FROM unnest({arrays}) ON CONFLICT DO NOTHING"
    connection = await asyncpg.connect(dsn)
    try:
        started = time.perf_counter()
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            await connection.execute(statement, *([row[name] for row in batch] for name in _COLUMNS))
        return len(rows) / (time.perf_counter() - started)
    finally:
        await connection.close()


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    times = {name: datetime.fromisoformat(row[name]) for name in ("captured_at", "detected_at", "accepted_at")}
    return row | times | {"detections": json.dumps(row["detections"])}


async def _empty(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("TRUNCATE events")
    finally:
        await connection.close()
