"""The database is away, silent, slow, killed, or changes its mind: the box goes on, and all of it arrives, once."""

import asyncio
import os
import random
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from daemon.postgres_server import PostgresServer
from tests.conftest import dsn_of
from tests.faults.conftest import NewBox
from tests.faults.lives import Lives, a_life
from tests.faults.proxy import Proxy, a_proxy

IMPATIENT = {"database": {"connect_timeout_s": 0.4, "command_timeout_s": 0.4}}
ROOMY = {"journal": {"quota_mb": 1024}, "drain_s": 600}
BATCHES_KB = 48 * 1024
"""What the batches on their way may take: a few copies of 2 MB, and what Python does not give back at once."""


@pytest.fixture
async def proxy(database: str) -> AsyncIterator[Proxy]:
    async with a_proxy(database) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    """A server that may be killed, and that writes through to the disk."""
    with tempfile.TemporaryDirectory(prefix="lva-own-") as directory:
        server = PostgresServer(Path(directory))
        asyncio.run(server.start())
        yield server
        asyncio.run(server.stop())


async def test_a_database_that_is_away_at_boot_keeps_no_one_from_starting(
    new_box: NewBox, database: str, proxy: Proxy
) -> None:
    """Case 1."""
    await proxy.close()
    box = new_box(database, through=proxy.dsn)
    async with a_life(box):
        await box.until_logged("upload.interrupted")
        await box.until_accepted(100)
        await proxy.open()
        await box.until_logged("upload.resumed")
    await box.settle()


async def drain_a_backlog(box: Lives, proxy: Proxy, connection: asyncpg.Connection, events: int) -> None:
    await proxy.close()
    box.start(count=events, events_per_s=1e6, at_once=32, quiet=True)
    await box.until_accepted(events // 2)
    half_kb = box.resident_kb()
    await box.until_accepted(events - box.accepted())
    whole_kb = box.resident_kb()
    await proxy.open()
    assert await box.end() == 0, box.last_words()
    assert whole_kb - half_kb < BATCHES_KB, "memory grows with the backlog"
    assert box.ended()["peak_kb"] - whole_kb < BATCHES_KB, "memory grows as the backlog is sent"
    transactions = await connection.fetch("SELECT xmin::text::bigint AS number FROM events ORDER BY event_id")
    numbers = [row["number"] for row in transactions]
    assert numbers == sorted(numbers), "the backlog was not sent in order"
    await box.settle()


async def test_a_backlog_is_drained_in_order_within_bounded_memory(
    new_box: NewBox, database: str, proxy: Proxy, connection: asyncpg.Connection
) -> None:
    """Case 2, with 5,000 events."""
    await drain_a_backlog(new_box(database, through=proxy.dsn, config=ROOMY), proxy, connection, 5_000)


@pytest.mark.faults
@pytest.mark.timeout(1200)
async def test_a_backlog_of_six_hours_is_drained_in_order_within_bounded_memory(
    new_box: NewBox, database: str, proxy: Proxy, connection: asyncpg.Connection
) -> None:
    """Case 2, with 50,000 events."""
    await drain_a_backlog(new_box(database, through=proxy.dsn, config=ROOMY), proxy, connection, 50_000)


async def test_a_server_that_says_nothing_is_given_up_again_and_again_and_holds_up_no_one(
    new_box: NewBox, database: str, proxy: Proxy
) -> None:
    """Case 3."""
    box = new_box(database, through=proxy.dsn, config=IMPATIENT)
    async with a_life(box):
        await box.until_accepted(20)
        proxy.weather.silent = True
        [interrupted] = await box.until_logged("upload.interrupted")
        assert interrupted["reason"] == "no answer in time"
        taken = proxy.connections
        await box.until(lambda: proxy.connections >= taken + 2)
        await box.until_accepted(50)
        proxy.weather.silent = False
        await box.until_logged("upload.resumed")
    await box.settle()


@pytest.mark.parametrize("trouble", ["reset", "delay", "trickle", "cut short"])
async def test_a_bad_line_delays_and_loses_nothing(new_box: NewBox, database: str, proxy: Proxy, trouble: str) -> None:
    box = new_box(database, through=proxy.dsn, config=IMPATIENT)
    async with a_life(box):
        await box.until_accepted(50)
        match trouble:
            case "delay":
                proxy.weather.delay_s = 0.1
            case "trickle":
                proxy.weather.trickle_s = 0.05
            case "cut short":
                proxy.weather.cut_after = 700
        for _ in range(3):
            await proxy.reset()
            await box.until_accepted(50)
        proxy.weather.delay_s, proxy.weather.trickle_s, proxy.weather.cut_after = 0.0, 0.0, None
    await box.settle()


async def kill_the_server_again_and_again(box: Lives, server: PostgresServer, times: int) -> None:
    lot = random.Random(box.settings.seed)
    for _ in range(times):
        await box.until_accepted(lot.randrange(20, 200))
        postmaster = server.pid()
        assert postmaster
        for process in server._processes() if lot.random() < 0.5 else [postmaster]:
            os.kill(process, signal.SIGKILL)
        await box.until_accepted(50)
        await server.start()
        await box.until_logged("upload.resumed", len(box.logged("upload.interrupted")))


async def test_a_server_that_is_killed_in_the_middle_of_a_batch_gets_it_again(
    new_box: NewBox, own_server: PostgresServer
) -> None:
    """Case 4."""
    box = new_box(await fresh_database(own_server))
    async with a_life(box):
        await kill_the_server_again_and_again(box, own_server, 3)
    await box.settle()


@pytest.mark.faults
async def test_a_server_that_is_killed_twenty_times_has_everything_once(
    new_box: NewBox, own_server: PostgresServer
) -> None:
    """Case 4."""
    box = new_box(await fresh_database(own_server))
    async with a_life(box):
        await kill_the_server_again_and_again(box, own_server, 20)
    await box.settle()


async def test_replies_that_are_cut_after_the_commit_double_nothing(
    new_box: NewBox, database: str, proxy: Proxy
) -> None:
    """Case 5."""
    box = new_box(database, through=proxy.dsn)
    proxy.weather.share_of_replies_to_cut = 0.3
    async with a_life(box):
        await box.until(lambda: proxy.cut >= 20)
        proxy.weather.share_of_replies_to_cut = 0.0
    await box.settle()


async def test_a_frozen_session_is_left_for_another(
    new_box: NewBox, database: str, connection: asyncpg.Connection
) -> None:
    """Case 6. Frozen between two statements: in the middle of one it would hold its rows' locks against any other."""
    box = new_box(database, config=IMPATIENT)
    async with a_life(box):
        await box.until_accepted(50)
        frozen = await freeze_an_idle_session(connection)
        try:
            await box.until_logged("upload.interrupted")
            await box.until_logged("upload.resumed")
            arrived = await connection.fetchval("SELECT count(*) FROM events")
            while await connection.fetchval("SELECT count(*) FROM events") <= arrived:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        finally:
            os.kill(frozen, signal.SIGCONT)
    await box.settle()


async def freeze_an_idle_session(connection: asyncpg.Connection) -> int:
    idle = (
        "SELECT pid FROM pg_stat_activity"
        " WHERE application_name = 'lva' AND state = 'idle' AND datname = current_database()"
    )
    while True:
        for session in await connection.fetch(idle):
            os.kill(session["pid"], signal.SIGSTOP)
            if session in await connection.fetch(idle):
                return int(session["pid"])
            os.kill(session["pid"], signal.SIGCONT)


async def test_after_a_failover_the_connections_to_the_old_server_are_dropped(
    new_box: NewBox, own_server: PostgresServer
) -> None:
    """Case 7. What was connected before stays read-only for ever; what connects anew may write."""
    dsn = await fresh_database(own_server)
    box = new_box(dsn)
    admin = await asyncpg.connect(dsn)
    async with a_life(box):
        await box.until_accepted(50)
        await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_reload_conf()")
        name = await admin.fetchval("SELECT current_database()")
        [interrupted] = await box.until_logged("upload.interrupted")
        assert interrupted["sqlstate"] == "25006"
        await admin.execute(f"BEGIN READ WRITE; ALTER DATABASE {name} SET default_transaction_read_only = off; COMMIT")
        await box.until_logged("upload.resumed")
    await admin.execute("SET default_transaction_read_only = off")
    await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
    await admin.execute("SELECT pg_reload_conf()")
    await admin.close()
    await box.settle()


async def test_a_full_server_is_asked_again_rarely(
    new_box: NewBox, database: str, connection: asyncpg.Connection
) -> None:
    """Case 8. With the daemon's own pauses, twenty times faster: no storm while there is no connection to be had."""
    await connection.execute(
        "CREATE ROLE narrow LOGIN CONNECTION LIMIT 1; GRANT INSERT ON ALL TABLES IN SCHEMA public TO narrow"
    )
    narrow = database.replace("//lva@", "//narrow@")
    occupant = await asyncpg.connect(narrow)
    async with a_proxy(narrow) as proxy:
        patient = {"connections": 1, "connect_timeout_s": 60, "command_timeout_s": 60}
        box = new_box(database, through=proxy.dsn, time_rate=20.0, pauses="own", config={"database": patient})
        box.start()
        [interrupted] = await box.until_logged("upload.interrupted")
        assert interrupted["sqlstate"] == "53300"
        before = proxy.connections
        await asyncio.sleep(3)  # a minute of the box's time
        assert proxy.connections - before <= 12
        await occupant.close()
        await box.until_logged("upload.resumed")
        await box.stop()
        await box.settle()
    await connection.execute("DROP OWNED BY narrow; DROP ROLE narrow")


async def fresh_database(server: PostgresServer) -> str:
    """The address of a new database with nothing in it."""
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(server.dsn)
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    await admin.close()
    return dsn_of(server.dsn, name)
