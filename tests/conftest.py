"""What all tests share: a real Postgres for whoever asks (one server a session, one database a test), and how
properties are tried."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from daemon.postgres_server import PostgresServer
from pipeline.migrations import migrate

TEMPLATE = "lva_template"

collect_ignore = [] if find_spec("torch") else ["local"]
"""Models need torch; `make test MODELS=0` goes without."""

# No example is timed: the machine may be busy. A run of CI is the same each time; by hand, each run looks elsewhere.
settings.register_profile("lva", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("lva")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a server's `postgres` database, as its superuser. The server is the embedded one."""
    with tempfile.TemporaryDirectory(prefix="lva-test-") as directory:
        server = PostgresServer(Path(directory))
        asyncio.run(_start(server))
        yield server.dsn
        asyncio.run(server.stop())


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[str]:
    """The address of a database of the test's own, with all tables in it."""
    async with new_database(postgres, template=TEMPLATE) as dsn:
        yield dsn


@pytest.fixture
async def empty_database(postgres: str) -> AsyncIterator[str]:
    """The address of a database of the test's own with nothing in it."""
    async with new_database(postgres, template="template0") as dsn:
        yield dsn


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to `database`, as its owner."""
    opened = await asyncpg.connect(database)
    yield opened
    await opened.close()


async def _start(server: PostgresServer) -> None:
    await server.start()
    admin = await asyncpg.connect(server.dsn)
    await admin.execute("ALTER SYSTEM SET fsync = off")  # what it must survive is tried on servers of their own
    await admin.execute("SELECT pg_reload_conf()")
    await admin.execute(f"CREATE DATABASE {TEMPLATE}")
    await admin.close()
    template = await asyncpg.connect(dsn_of(server.dsn, TEMPLATE))
    await migrate(template)
    await template.close()


@asynccontextmanager
async def new_database(server_dsn: str, template: str) -> AsyncIterator[str]:
    """The address of a database of its own on this server, which is gone afterwards."""
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(server_dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield dsn_of(server_dsn, name)
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await admin.close()


def dsn_of(server_dsn: str, name: str) -> str:
    return server_dsn.replace("/postgres?", f"/{name}?")
