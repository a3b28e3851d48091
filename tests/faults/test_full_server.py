"""The server's disk is full: to the box one more outage, whatever the server makes of it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from daemon.postgres_server import PostgresServer
from tests.conftest import TEMPLATE, dsn_of
from tests.faults.conftest import NewBox
from tests.faults.lives import a_life
from tests.faults.small_disk import a_small_disk


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path: a socket's address may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="lva-full-") as directory:
        yield Path(directory)


async def test_a_full_tablespace_is_waited_out(new_box: NewBox, postgres: str, place: Path) -> None:
    """Case 12. The server stands; only these rows find no room (53100)."""
    name = f"full_{uuid4().hex}"
    with a_small_disk(place / "disk", size_mb=24) as disk:
        admin = await asyncpg.connect(postgres)
        await admin.execute(f"CREATE TABLESPACE {name} LOCATION '{disk.path}'")
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} TABLESPACE {name}")
        box = new_box(dsn_of(postgres, name))
        async with a_life(box, events_per_s=2000):
            await box.until_accepted(50)
            disk.fill()
            [interrupted] = await box.until_logged("upload.interrupted")
            assert interrupted["sqlstate"] == "53100"
            await box.until_accepted(200)
            disk.empty()
            await box.until_logged("upload.resumed")
        await box.settle()
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.execute(f"DROP TABLESPACE {name}")
        await admin.close()


@pytest.mark.faults
async def test_a_server_that_falls_over_for_want_of_room_is_waited_for(new_box: NewBox, place: Path) -> None:
    """Case 12. Where its log of transactions finds no room, Postgres stops."""
    with a_small_disk(place / "disk", size_mb=112) as disk:
        server = PostgresServer(disk.path)
        await server.start()
        box = new_box(server.dsn)
        async with a_life(box, events_per_s=2000):
            await box.until_accepted(50)
            disk.fill()
            await box.until_logged("upload.interrupted")
            await box.until_accepted(200)
            disk.empty()
            await server.start()
            await box.until_logged("upload.resumed")
        await box.settle()
        await server.stop()
