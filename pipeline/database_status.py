"""How the database is: what runs there, which schema it has, how much is in it."""

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from pipeline.migrations import applied, migrations, missing_tables
from pipeline.sql import statement

COUNT_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class TableStatus:
    name: str
    rows: int
    size_bytes: int
    oldest: datetime | None
    newest: datetime | None


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """`version` is the last migration that was applied. None, as `tables`: this role may not look."""

    server_version: str
    database: str
    schema: str | None
    role: str
    read_only: bool
    size_bytes: int
    version: int | None
    newest_version: int
    missing: tuple[str, ...]
    tables: tuple[TableStatus, ...] | None


async def database_status(connection: asyncpg.Connection) -> DatabaseStatus:
    """Counts every row, which takes a while where there are many."""
    facts = dict(await connection.fetchrow(statement("status")))
    missing = tuple(await missing_tables(connection))
    return DatabaseStatus(
        **facts,
        version=await _version(connection),
        newest_version=max(migration.version for migration in migrations()),
        missing=missing,
        tables=None if missing else await _tables(connection),
    )


async def _version(connection: asyncpg.Connection) -> int | None:
    try:
        return max(await applied(connection), default=0)
    except asyncpg.InsufficientPrivilegeError:
        return None


async def _tables(connection: asyncpg.Connection) -> tuple[TableStatus, ...] | None:
    try:
        rows = await connection.fetch(statement("status_tables"), timeout=COUNT_TIMEOUT_S)
    except asyncpg.InsufficientPrivilegeError:
        return None
    return tuple(TableStatus(**dict(row)) for row in rows)
