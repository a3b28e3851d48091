"""Behind PgBouncer in transaction mode, where each transaction may meet another session of the server."""

import asyncio
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from daemon.postgres_programs import _as_owner_of as as_owner_of
from tests.faults.conftest import NewBox
from tests.faults.lives import a_life

PGBOUNCER = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs Debian's package pgbouncer")

CONFIGURATION = """\
[databases]
* = host={host} port={port} user=lva
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
"""


@pytest.fixture
async def pooled(database: str, tmp_path: Path) -> AsyncIterator[str]:
    """The address of `database` through a pooler."""
    query = parse_qs(urlsplit(database).query)
    port = a_free_port()
    (configuration := tmp_path / "pgbouncer.ini").write_text(
        CONFIGURATION.format(host=query["host"][0], port=query["port"][0], listen_port=port)
    )
    assert PGBOUNCER
    command = [*as_owner_of(Path(query["host"][0])), PGBOUNCER, "-q", str(configuration)]  # it refuses to run as root
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as pooler:  # noqa: ASYNC220 - a moment, in a test
        try:
            yield await until_it_answers(f"postgresql://lva@127.0.0.1:{port}{urlsplit(database).path}")
        finally:
            pooler.terminate()


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until_it_answers(dsn: str) -> str:
    while True:
        with suppress(OSError):
            await (await asyncpg.connect(dsn, statement_cache_size=0, ssl=False)).close()
            return dsn
        await asyncio.sleep(0.02)


async def test_prepared_statements_behind_a_pooler_lose_nothing_and_are_explained(
    new_box: NewBox, database: str, pooled: str
) -> None:
    """Case 9. The statements of the first life are still there when the second one comes."""
    box = new_box(database, through=pooled, config={"database": {"statement_cache_size": 100}})
    async with a_life(box):
        await box.until_accepted(50)
    async with a_life(box):
        refused = await box.until_logged("upload.refused", 3)
        await box.until_accepted(50)
    assert all("set statement_cache_size = 0" in line["reason"] for line in refused)
    assert not box.logged("upload.dead_letter")
    box.settings.config["database"]["statement_cache_size"] = 0
    await box.settle()


async def test_without_prepared_statements_a_pooler_is_as_good_as_a_server(
    new_box: NewBox, database: str, pooled: str
) -> None:
    """Case 9."""
    box = new_box(database, through=pooled, config={"database": {"statement_cache_size": 0}})
    for _ in range(3):
        async with a_life(box):
            await box.until_accepted(100)
        assert not box.logged("upload.refused")
        assert not box.logged("upload.interrupted")
    await box.settle()
