import asyncio
import random

import asyncpg
import pytest
from structlog.testing import capture_logs

from pipeline.store import open_store
from pipeline.uploader import PUZZLING_ALARM_AFTER, Uploader
from tests.faults.proxy import a_proxy
from tests.store.outbox import MemoryOutbox, event_body, events, whole_event
from tests.store.sending import QUICK, in_trouble, settings_for, uploading


@pytest.fixture
def outbox() -> MemoryOutbox:
    return MemoryOutbox()


async def count(connection: asyncpg.Connection, table: str = "events") -> int:
    number: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return number


async def test_rows_of_all_tables_arrive_whole(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    outbox.put(*whole_event(camera="yard"))
    async with uploading(database, outbox) as uploader:
        await outbox.wait_empty()
    row = await connection.fetchrow("SELECT * FROM event_log")
    assert (row["camera"], row["outcome"], row["provider"], row["people_count"]) == (
        "yard",
        "done",
        "fake",
        3,
    )
    assert uploader.state.uploaded == 3


async def test_a_row_that_is_sent_twice_is_there_once(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    body = event_body()
    outbox.put(("events", body), ("events", body))
    async with uploading(database, outbox):
        await outbox.wait_empty()
        outbox.put(("events", body))
        await outbox.wait_empty()
    assert await count(connection) == 1
    assert not outbox.dead


async def test_a_backlog_is_sent_in_batches(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    outbox.put(*events(1234))
    async with uploading(database, outbox):
        await outbox.wait_empty()
    assert await count(connection) == 1234


async def test_flush_sends_what_waits_and_says_if_it_could(database: str, outbox: MemoryOutbox) -> None:
    outbox.put(*events(300))
    async with open_store(settings_for(database)) as store:
        assert await Uploader(outbox, store).flush()
    assert not outbox.rows
    outbox.put(*events(1))
    async with open_store(settings_for("postgresql://lva@127.0.0.1:1/nowhere")) as store:
        assert not await Uploader(outbox, store).flush()
    assert outbox.rows


async def test_flush_ends_at_what_the_database_refuses(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    await connection.execute("ALTER TABLE events RENAME TO away")
    outbox.put(*events(1))
    async with open_store(settings_for(database)) as store:
        assert not await Uploader(outbox, store).flush()
    assert outbox.rows


async def test_a_database_that_is_away_loses_nothing(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 2."""
    async with a_proxy(database) as proxy:
        outbox.put(*events(50))
        async with uploading(proxy.dsn, outbox) as uploader:
            await outbox.wait_empty()
            await proxy.close()
            outbox.put(*events(450))
            await in_trouble(uploader, 3)
            await proxy.open()
            await outbox.wait_empty()
            assert uploader.state.trouble == ""
    assert await count(connection) == 500


async def test_replies_cut_after_the_commit_make_no_duplicates(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 5."""
    async with a_proxy(database) as proxy:
        async with uploading(proxy.dsn, outbox):
            for _ in range(15):
                proxy.weather.replies_to_cut = random.randint(0, 2)
                outbox.put(*whole_event(), *events(10))
                await outbox.wait_empty()
        assert proxy.cut > 0
    assert (await count(connection), await count(connection, "outcomes")) == (165, 15)


async def test_a_server_that_never_answers_is_given_up_and_tried_again(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 3."""
    async with (
        a_proxy(database) as proxy,
        uploading(proxy.dsn, outbox, command_timeout_s=0.3, connect_timeout_s=0.3) as uploader,
    ):
        outbox.put(*events(1))
        await outbox.wait_empty()
        proxy.weather.silent = True
        outbox.put(*events(8), *whole_event())
        await in_trouble(uploader, 1)
        assert uploader.state.trouble == "no answer in time"
        await in_trouble(uploader, 2)
        proxy.weather.silent = False
        await outbox.wait_empty()
    assert await count(connection) == 10


async def test_killed_sessions_are_replaced(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 4."""
    async with uploading(database, outbox):
        for _ in range(5):
            outbox.put(*events(20))
            await outbox.wait_empty()
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'lva'"
            )
    assert await count(connection) == 100


async def test_a_read_only_server_is_left_for_the_one_that_took_over(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 7."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    outbox.put(*events(5))
    async with uploading(database, outbox) as uploader:
        await in_trouble(uploader, 2)
        assert "read-only" in uploader.state.trouble
        await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        await outbox.wait_empty()
    assert await count(connection) == 5


async def test_a_batch_that_takes_too_long_is_halved_until_it_passes(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"""
        CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_sleep(0.004); RETURN NEW; END $$;
        CREATE TRIGGER dawdle BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION dawdle();
        ALTER DATABASE {name} SET statement_timeout = '200ms';
    """)
    outbox.put(*events(200))
    async with uploading(database, outbox):
        await outbox.wait_empty()
    assert await count(connection) == 200


async def test_an_error_that_nothing_is_known_about_is_tried_again_and_told_when_it_lasts(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    await connection.execute("""
        CREATE FUNCTION puzzle() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'nobody knows' USING ERRCODE = 'XX000'; END $$;
        CREATE TRIGGER puzzle BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION puzzle();
    """)
    outbox.put(*events(3))
    with capture_logs() as logs:
        async with uploading(database, outbox) as uploader:
            await in_trouble(uploader, PUZZLING_ALARM_AFTER + 2)
            await connection.execute("DROP TRIGGER puzzle ON events")
            await outbox.wait_empty()
    assert [line["event"] for line in logs] == ["upload.interrupted", "upload.keeps_failing", "upload.resumed"]
    assert await count(connection) == 3


async def test_too_many_connections_are_waited_out(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 8."""
    await connection.execute("CREATE ROLE narrow LOGIN CONNECTION LIMIT 1; GRANT INSERT ON events TO narrow")
    try:
        narrow = database.replace("//lva@", "//narrow@")
        occupant = await asyncpg.connect(narrow)
        outbox.put(*events(1))
        async with uploading(narrow, outbox, migrate=False) as uploader:
            await in_trouble(uploader, 2)
            await occupant.close()
            await outbox.wait_empty()
    finally:
        await connection.execute("DROP OWNED BY narrow; DROP ROLE narrow")


async def test_cancelling_in_the_middle_loses_nothing(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    outbox.put(*events(2000))
    for _ in range(5):
        async with uploading(database, outbox):
            await asyncio.sleep(random.uniform(0, 0.02))
    async with uploading(database, outbox):
        await outbox.wait_empty()
    assert await count(connection) == 2000


def test_pauses_grow_to_their_limit() -> None:
    away, wrong = OSError(), asyncpg.InvalidPasswordError("no")
    assert all(0 < QUICK.after(away, failures) <= QUICK.transient_max_s for failures in range(1, 60))
    assert QUICK.after(wrong, 1) <= QUICK.configuration_first_s < QUICK.after(wrong, 60) <= QUICK.configuration_max_s
