"""The database as the box sees it: a pool that survives outages, and one statement per table to add rows."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import structlog
from pydantic import Field, SecretStr, ValidationInfo, field_validator

from pipeline.migrations import TABLES, DatabaseTooNewError, migrate_if_allowed
from pipeline.sql import statement
from pipeline.sql_errors import DATABASE_ERRORS, DatabaseUnusableError
from providers.settings import Section

CLOSE_TIMEOUT_S = 3.0
IDLE_CONNECTION_S = 60.0
"""Below the idle limit of the usual poolers and firewalls."""


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A row on its way: `body` is one JSON object whose keys are columns of `table`, `seq` is its place."""

    seq: int
    table: str
    body: str = field(repr=False)


log = structlog.get_logger()


class DatabaseSettings(Section):
    url: SecretStr = Field(
        SecretStr(""), description="postgresql://user:password@host/database; empty: an embedded Postgres"
    )
    tls: Literal["auto", "on", "off"] = Field(
        "auto", description="auto: verified, except on loopback and unix sockets; off: plain text"
    )
    ca_file: Path | None = Field(
        None, description="Certificates to trust (Supabase: prod-ca-2021.crt); empty: the system's"
    )
    migrate: bool = Field(
        True, description="Create and update the tables; a role that may only insert leaves them as they are"
    )
    statement_cache_size: int = Field(100, ge=0, description="0 behind a pooler in transaction mode")
    connections: int = Field(2, ge=1, le=20, description="At most")
    connect_timeout_s: float = Field(5.0, gt=0, le=60, description="To a connection")
    command_timeout_s: float = Field(20.0, gt=0, le=300, description="For one statement")
    retention_days: int = Field(0, ge=0, description="Rows older than this are deleted once a day; 0: never")
    batch_rows: int = Field(200, ge=1, le=1000, description="Sent at once, at most")
    batch_bytes: int = Field(2_000_000, ge=10_000, le=16_000_000, description="Sent at once, at most")

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: SecretStr) -> SecretStr:
        if text := url.get_secret_value():
            if urlsplit(text).scheme not in ("postgresql", "postgres"):
                raise ValueError("must begin with postgresql://")
            _hosts(text)
        return url

    @field_validator("ca_file")
    @classmethod
    def _exists(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is None:
            return None
        file = (info.context or {}).get("base_dir", Path()) / file
        if not file.is_file():
            raise ValueError(f"no such file: {file}")
        return file


@asynccontextmanager
async def open_pool(settings: DatabaseSettings, dsn: str = "") -> AsyncIterator[asyncpg.Pool]:
    """A pool that connects when it is first used, so that it opens while the database is away.

    `dsn` is where to go when `settings.url` is empty: the embedded server. At the end, connections that are
    still busy after CLOSE_TIMEOUT_S are cut.
    """
    url = settings.url.get_secret_value() or dsn
    pool = asyncpg.create_pool(
        url,
        min_size=0,
        max_size=settings.connections,
        max_inactive_connection_lifetime=IDLE_CONNECTION_S,
        max_cached_statement_lifetime=0,  # for ever: asyncpg waits without any timeout when it closes one
        **_connect_arguments(url, settings),
    )
    await pool
    try:
        yield pool
    finally:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await pool.close()  # when it is cut short it terminates what is left


def _connect_arguments(url: str, settings: DatabaseSettings) -> dict[str, Any]:
    return {
        "timeout": settings.connect_timeout_s,
        "command_timeout": settings.command_timeout_s,
        "statement_cache_size": settings.statement_cache_size,
        "ssl": tls_of(url, settings),
        "server_settings": {"application_name": "lva"},
    }


async def connect(settings: DatabaseSettings, dsn: str = "") -> asyncpg.Connection:
    """One connection of one's own, for a command or a migration."""
    url = settings.url.get_secret_value() or dsn
    return await asyncpg.connect(
        url,
        timeout=settings.connect_timeout_s,
        statement_cache_size=settings.statement_cache_size,
        ssl=tls_of(url, settings),
        server_settings={"application_name": "lva"},
    )


def tls_of(url: str, settings: DatabaseSettings) -> ssl.SSLContext | Literal[False]:
    """A context that verifies certificate and name, or False for no TLS; never asyncpg's own `prefer`.

    `sslmode=disable` in the URL is the same as tls = "off"; its other modes can't make this laxer.
    """
    query = parse_qs(urlsplit(url).query)
    if settings.tls == "off" or query.get("sslmode") == ["disable"]:
        return False
    if settings.tls == "auto" and all(map(_stays_on_this_machine, _hosts(url))):
        return False
    ca_file = settings.ca_file or next(iter(query.get("sslrootcert", [])), None)
    return ssl.create_default_context(cafile=ca_file)


def _hosts(url: str) -> list[str]:
    """Of `user@host1:5432,[::1]:5433/database?host=…`; several are tried in turn."""
    parts = urlsplit(url)
    listed = [
        *parts.netloc.rpartition("@")[2].split(","),
        *",".join(parse_qs(parts.query).get("host", [])).split(","),
    ]
    hosts = [
        unquote(host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host)
        for host in listed
    ]
    return [host for host in hosts if host]


def _stays_on_this_machine(host: str) -> bool:
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Store:
    """Adds rows, and brings the tables up to date before the first one. Owns no connection: the pool does."""

    def __init__(self, pool: asyncpg.Pool, settings: DatabaseSettings) -> None:
        self._pool = pool
        self._migrate = settings.migrate
        self._prepared = False

    async def insert(self, rows: Sequence[OutboxRow]) -> None:
        """Add all of them or none. A row that is there already changes nothing and is no error.

        Raises what `sql_errors` sorts; after any of it the rows may be sent again, even if they had arrived.
        """
        statements = _statements(rows)
        async with self._pool.acquire() as connection:
            if not self._prepared:
                await self._prepare(connection)
            if len(statements) == 1:
                await connection.execute(*statements[0])
                return
            with _first_error():
                async with connection.transaction():
                    for insert, body in statements:
                        await connection.execute(insert, body)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        async with self._pool.acquire() as connection:
            yield connection

    async def use(self, settings: DatabaseSettings) -> None:
        """Connect as these settings say from now on: another password, another host, other certificates."""
        url = settings.url.get_secret_value()
        self._pool.set_connect_args(url, **_connect_arguments(url, settings))
        await self.start_afresh()

    async def start_afresh(self) -> None:
        """After an error: look at the tables again, and use no connection that was made before now."""
        self._prepared = False
        await self._pool.expire_connections()

    async def _prepare(self, connection: asyncpg.Connection) -> None:
        if self._migrate:
            try:
                for migration in await migrate_if_allowed(connection):
                    log.info("database.migrated", version=migration.version, name=migration.name)
            except DatabaseTooNewError as error:  # migrations only add: what an older box inserts still fits
                log.warning("database.newer", reason=str(error))
        self._prepared = True


@asynccontextmanager
async def open_store(settings: DatabaseSettings, dsn: str = "") -> AsyncIterator[Store]:
    async with open_pool(settings, dsn) as pool:
        yield Store(pool, settings)


@contextmanager
def _first_error() -> Iterator[None]:
    """Of a transaction that failed: what went wrong, not that there was no connection any more to roll it back on."""
    try:
        yield
    except asyncpg.InterfaceError as error:
        if isinstance(error.__context__, DATABASE_ERRORS):
            raise error.__context__ from None
        raise


def _statements(rows: Sequence[OutboxRow]) -> list[tuple[str, str]]:
    """For each table among the rows, in order of appearance: its INSERT and its rows as a JSON array."""
    bodies: dict[str, list[str]] = {}
    for row in rows:
        bodies.setdefault(row.table, []).append(row.body)
    return [(_insert_into(table), f"[{','.join(listed)}]") for table, listed in bodies.items()]


def _insert_into(table: str) -> str:
    if table not in TABLES:
        raise DatabaseUnusableError(f"this version of lva has no table {table!r}")
    return statement(f"insert_{table}")


async def answers(dsn: str, timeout_s: float = 5.0) -> bool:
    """True when a server there answers SELECT 1, or says that it has no connection to spare."""
    try:
        async with asyncio.timeout(timeout_s):
            connection = await asyncpg.connect(dsn, ssl=False, timeout=timeout_s)
            try:
                return bool(await connection.fetchval("SELECT 1") == 1)
            finally:
                connection.terminate()
    except asyncpg.TooManyConnectionsError:
        return True
    except DATABASE_ERRORS:
        return False
