"""What a person has to put right: nothing is given up meanwhile, and sending goes on without a restart."""

from collections.abc import AsyncIterator

import asyncpg
import pytest
from structlog.testing import capture_logs

from pipeline.sql_errors import ErrorClass
from pipeline.uploader import Uploader
from tests.store.outbox import MemoryOutbox, events, whole_event
from tests.store.sending import in_trouble, uploading

BOX = "lva_box"


@pytest.fixture
def outbox() -> MemoryOutbox:
    return MemoryOutbox()


@pytest.fixture
async def box(database: str, connection: asyncpg.Connection) -> AsyncIterator[str]:
    """The address of the same database for a role that may insert rows of its own site, and nothing else."""
    await connection.execute(f"CREATE ROLE {BOX} LOGIN")
    for table in ("events", "analyses", "outcomes", "gaps", "dead_letters", "alarms"):
        await connection.execute(f"GRANT INSERT ON {table} TO {BOX}")
    await connection.execute(f"""
        ALTER TABLE events ENABLE ROW LEVEL SECURITY;
        CREATE POLICY own_site ON events FOR INSERT TO {BOX} WITH CHECK (site = current_user);
    """)
    yield database.replace("//lva@", f"//{BOX}@")
    await connection.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{BOX}';"
        f"DROP OWNED BY {BOX}; DROP ROLE {BOX}"
    )


async def refused(uploader: Uploader, words: str) -> None:
    await in_trouble(uploader, 2)
    assert uploader.state.trouble_class is ErrorClass.CONFIGURATION
    assert words in uploader.state.trouble


async def test_a_role_that_may_only_insert_is_enough(
    box: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    outbox.put(*whole_event(site=BOX), *events(5, site=BOX))
    outbox.put(("events", outbox.rows[1].body))
    async with uploading(box, outbox):
        await outbox.wait_empty()
    assert await connection.fetchval("SELECT count(*) FROM events") == 6
    assert await connection.fetchval("SELECT outcome FROM event_log WHERE outcome IS NOT NULL") == "done"


async def test_a_row_of_another_site_is_kept_until_its_policy_allows_it(
    box: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    outbox.put(*events(3, site="elsewhere"))
    async with uploading(box, outbox) as uploader:
        await refused(uploader, "row-level security")
        assert (len(outbox.rows), outbox.dead) == (3, [])
        await connection.execute("ALTER TABLE events DISABLE ROW LEVEL SECURITY")
        await outbox.wait_empty()


async def test_a_revoked_grant_keeps_everything(box: str, connection: asyncpg.Connection, outbox: MemoryOutbox) -> None:
    """Case 11."""
    outbox.put(*events(3, site=BOX))
    async with uploading(box, outbox) as uploader:
        await outbox.wait_empty()
        await connection.execute(f"REVOKE INSERT ON events FROM {BOX}")
        outbox.put(*events(300, site=BOX))
        await refused(uploader, "permission denied")
        assert (len(outbox.rows), outbox.dead) == (300, [])
        await connection.execute(f"GRANT INSERT ON events TO {BOX}")
        await outbox.wait_empty()
    assert await connection.fetchval("SELECT count(*) FROM events") == 303


async def test_a_missing_table_keeps_everything(box: str, connection: asyncpg.Connection, outbox: MemoryOutbox) -> None:
    """Case 11."""
    await connection.execute("ALTER TABLE outcomes RENAME TO away")
    outbox.put(*whole_event(site=BOX))
    async with uploading(box, outbox) as uploader:
        await refused(uploader, "lva db migrate")
        assert (len(outbox.rows), outbox.dead) == (3, [])
        await connection.execute("ALTER TABLE away RENAME TO outcomes")
        await outbox.wait_empty()


async def test_a_missing_column_keeps_everything(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 11."""
    await connection.execute("ALTER TABLE events RENAME COLUMN camera TO lens")
    outbox.put(*events(3))
    async with uploading(database, outbox) as uploader:
        await refused(uploader, "column")
        await connection.execute("ALTER TABLE events RENAME COLUMN lens TO camera")
        await outbox.wait_empty()
    assert not outbox.dead


async def test_a_missing_partition_keeps_everything(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 11."""
    await connection.execute("""
        ALTER TABLE events RENAME TO plain;
        CREATE TABLE events (LIKE plain INCLUDING DEFAULTS, PRIMARY KEY (event_id, captured_at))
            PARTITION BY RANGE (captured_at);
        CREATE TABLE events_2020 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
    """)
    outbox.put(*events(3))
    async with uploading(database, outbox) as uploader:
        await refused(uploader, "partition")
        assert (len(outbox.rows), outbox.dead) == (3, [])
        await connection.execute(
            "CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"
        )
        await outbox.wait_empty()


async def test_a_rule_that_no_row_can_follow_is_drift_and_keeps_everything(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    """Case 11."""
    await connection.execute("ALTER TABLE events ADD COLUMN owner text NOT NULL")
    outbox.put(*events(20))
    async with uploading(database, outbox) as uploader:
        await refused(uploader, "every row")
        assert (len(outbox.rows), outbox.dead) == (20, [])
        await connection.execute("ALTER TABLE events ALTER COLUMN owner SET DEFAULT 'us'")
        await outbox.wait_empty()


async def test_a_dropped_database_that_comes_back_empty_gets_its_tables(
    database: str, connection: asyncpg.Connection, outbox: MemoryOutbox
) -> None:
    async with uploading(database, outbox) as uploader:
        outbox.put(*events(1))
        await outbox.wait_empty()
        await connection.execute("DROP SCHEMA public CASCADE")
        outbox.put(*events(2))
        await in_trouble(uploader, 1)
        await connection.execute("CREATE SCHEMA public")
        await outbox.wait_empty()
    assert await connection.fetchval("SELECT count(*) FROM events") == 2


async def test_a_row_for_a_table_that_this_version_has_not_keeps_everything(
    database: str, outbox: MemoryOutbox
) -> None:
    outbox.put(("weather", "{}"), *events(1))
    async with uploading(database, outbox) as uploader:
        await refused(uploader, "has no table 'weather'")
    assert len(outbox.rows) == 2


async def test_a_wrong_database_name_keeps_everything(database: str, outbox: MemoryOutbox) -> None:
    outbox.put(*events(1))
    async with uploading(database.replace("/test_", "/missing_"), outbox) as uploader:
        await refused(uploader, "does not exist")
    assert len(outbox.rows) == 1


async def test_prepared_statements_that_a_pooler_lost_are_explained(database: str, outbox: MemoryOutbox) -> None:
    """Case 9."""
    async with uploading(database, outbox) as uploader:
        outbox.put(*events(1))
        await outbox.wait_empty()
        async with uploader._store.connection() as pooled:
            await pooled.execute("DEALLOCATE ALL")
        outbox.put(*events(1))
        with capture_logs() as logs:
            await outbox.wait_empty()
    [told] = [line for line in logs if line["event"] == "upload.refused"]
    assert "statement_cache_size = 0" in told["reason"]


async def test_without_a_statement_cache_there_is_nothing_to_lose(database: str, outbox: MemoryOutbox) -> None:
    """Case 9."""
    async with uploading(database, outbox, statement_cache_size=0) as uploader:
        outbox.put(*whole_event())
        await outbox.wait_empty()
        async with uploader._store.connection() as pooled:
            await pooled.execute("DEALLOCATE ALL")
        outbox.put(*whole_event())
        await outbox.wait_empty()
