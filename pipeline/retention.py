"""Forgetting: rows older than wanted are deleted, a batch at a time, so that nobody has to wait for it."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import structlog

from pipeline.migrations import TABLES
from pipeline.sql import statement
from pipeline.sql_errors import DATABASE_ERRORS, explain
from pipeline.store import Store

BATCH_ROWS = 1000
BATCH_TIMEOUT_S = 120.0
EVERY_S = 24 * 3600.0
RETRY_S = 3600.0

log = structlog.get_logger()


async def prune(connection: asyncpg.Connection, keep: timedelta, *, batch_rows: int = BATCH_ROWS) -> dict[str, int]:
    """Delete what is older than `keep`, and say how many rows of each table. Refuses to forget everything."""
    before = _cutoff(keep)
    forgotten = dict.fromkeys(TABLES, 0)
    for table in TABLES:
        while count := await connection.fetchval(
            statement(f"prune_{table}"), before, batch_rows, timeout=BATCH_TIMEOUT_S
        ):
            forgotten[table] += count
            await asyncio.sleep(0)
    return forgotten


async def count_old(connection: asyncpg.Connection, keep: timedelta) -> dict[str, int]:
    """What `prune` would delete."""
    return dict(await connection.fetchrow(statement("count_old"), _cutoff(keep), timeout=BATCH_TIMEOUT_S))


async def prune_for_ever(store: Store, days: int, *, every_s: float = EVERY_S, retry_s: float = RETRY_S) -> None:
    """Prune now and once a day; at once done when `days` is 0, which keeps everything."""
    while days > 0:
        try:
            async with store.connection() as connection:
                forgotten = await prune(connection, timedelta(days=days))
        except DATABASE_ERRORS as error:
            log.warning("retention.failed", reason=explain(error), retry_s=retry_s)
            await asyncio.sleep(retry_s)
            continue
        if any(forgotten.values()):
            log.info("retention.pruned", days=days, **forgotten)
        await asyncio.sleep(every_s)


def _cutoff(keep: timedelta) -> datetime:
    if keep <= timedelta(0):
        raise ValueError("to keep nothing is refused: give a time span above zero")
    return datetime.now(UTC) - keep
