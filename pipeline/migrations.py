"""The schema's history: numbered SQL files, applied in order, each once, by one process at a time."""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import asyncpg

from pipeline.sql_errors import DatabaseUnusableError

LOCK_KEY = 0x6C76_6131
"""Of the advisory lock that migrations take: "lva1"."""
MIGRATION_TIMEOUT_S = 900.0
TABLES = ("events", "analyses", "outcomes", "gaps", "dead_letters", "alarms")

_FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_CREATE_HISTORY = """
CREATE TABLE IF NOT EXISTS lva_migrations (
    version integer PRIMARY KEY,
    name text NOT NULL,
    sha256 text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)"""


@dataclass(frozen=True, slots=True)
class Migration:
    version: int
    name: str
    sql: str = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


class DatabaseTooNewError(DatabaseUnusableError):
    """The database was migrated by a newer version of lva; this one does not know what it would break."""


class MigrationChangedError(DatabaseUnusableError):
    """A migration that this database has applied is not the one in this version of lva."""


class TablesMissingError(DatabaseUnusableError):
    """The tables do not exist and this role may not create them: run `lva db migrate` as the owner."""


@cache
def migrations() -> tuple[Migration, ...]:
    """All that this version of lva knows, oldest first."""
    found = []
    for entry in files("pipeline.sql").iterdir():
        if match := _FILE_NAME.fullmatch(entry.name):
            found.append(Migration(int(match[1]), match[2], entry.read_text("utf-8")))
    return tuple(sorted(found, key=lambda migration: migration.version))


async def migrate(connection: asyncpg.Connection, known: tuple[Migration, ...] | None = None) -> list[Migration]:
    """Bring the schema up to date in one transaction, and say what was applied."""
    known = migrations() if known is None else known
    if not _pending(await applied(connection), known):
        return []
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY, timeout=MIGRATION_TIMEOUT_S)
        await connection.execute(_CREATE_HISTORY)
        due = _pending(await applied(connection), known)
        for migration in due:
            await connection.execute(migration.sql, timeout=MIGRATION_TIMEOUT_S)
            await connection.execute(
                "INSERT INTO lva_migrations (version, name, sha256) VALUES ($1, $2, $3)",
                migration.version,
                migration.name,
                migration.sha256,
            )
    return due


async def migrate_if_allowed(connection: asyncpg.Connection) -> list[Migration]:
    """As `migrate`; a role that may only insert goes on with the tables there are, or TablesMissingError."""
    try:
        return await migrate(connection)
    except asyncpg.InsufficientPrivilegeError as error:
        if await missing_tables(connection):
            raise TablesMissingError(TablesMissingError.__doc__) from error
        return []


async def applied(connection: asyncpg.Connection) -> dict[int, str]:
    """Version and checksum of each migration that this database has had; none where it is empty."""
    if await connection.fetchval("SELECT to_regclass('lva_migrations')") is None:
        return {}
    return dict(await connection.fetch("SELECT version, sha256 FROM lva_migrations"))


async def missing_tables(connection: asyncpg.Connection) -> list[str]:
    rows = await connection.fetch("SELECT t FROM unnest($1::text[]) AS t WHERE to_regclass(t) IS NULL", TABLES)
    return [row["t"] for row in rows]


def _pending(done: dict[int, str], known: tuple[Migration, ...]) -> list[Migration]:
    newest = max((migration.version for migration in known), default=0)
    if beyond := [version for version in done if version > newest]:
        raise DatabaseTooNewError(
            f"The database is at version {max(beyond)}, this lva knows {newest}: install a newer one."
        )
    for migration in known:
        if done.get(migration.version, migration.sha256) != migration.sha256:
            raise MigrationChangedError(
                f"Migration {migration.version} ({migration.name}) is not the one that this database had."
            )
    return [migration for migration in known if migration.version not in done]
