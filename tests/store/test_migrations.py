import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from pipeline.migrations import (
    TABLES,
    DatabaseTooNewError,
    Migration,
    MigrationChangedError,
    TablesMissingError,
    migrate,
    migrate_if_allowed,
    migrations,
    missing_tables,
)
from tests.store.outbox import MemoryOutbox, event_body
from tests.store.sending import uploading


@pytest.fixture
async def fresh(empty_database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(empty_database)
    yield connection
    await connection.close()


def test_they_are_numbered_without_a_gap() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


async def test_a_new_database_gets_everything_once(fresh: asyncpg.Connection) -> None:
    assert set(await missing_tables(fresh)) == set(TABLES)
    assert await migrate(fresh) == list(migrations())
    assert await missing_tables(fresh) == []
    assert await migrate(fresh) == []


async def test_two_at_once_are_one(empty_database: str) -> None:
    connections = [await asyncpg.connect(empty_database) for _ in range(4)]
    applied = await asyncio.gather(*(migrate(connection) for connection in connections))
    assert sorted(map(len, applied)) == [0, 0, 0, len(migrations())]
    for connection in connections:
        await connection.close()


async def test_one_that_fails_leaves_nothing(fresh: asyncpg.Connection) -> None:
    bad = Migration(len(migrations()) + 1, "bad", "CREATE TABLE extra (); SELECT 1/0")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(fresh, (*migrations(), bad))
    assert set(await missing_tables(fresh)) == set(TABLES)
    assert await migrate(fresh) == list(migrations())


async def test_a_later_one_is_applied_alone(connection: asyncpg.Connection) -> None:
    later = Migration(len(migrations()) + 1, "later", "CREATE TABLE later ()")
    assert await migrate(connection, (*migrations(), later)) == [later]


async def test_a_newer_database_is_refused(connection: asyncpg.Connection) -> None:
    newer = Migration(len(migrations()) + 1, "newer", "CREATE TABLE newer ()")
    await migrate(connection, (*migrations(), newer))
    with pytest.raises(DatabaseTooNewError, match="newer"):
        await migrate(connection)


async def test_a_rewritten_history_is_refused(connection: asyncpg.Connection) -> None:
    first, *others = migrations()
    with pytest.raises(MigrationChangedError):
        await migrate(connection, (replace(first, sql=first.sql + " "), *others))


async def test_a_role_that_may_not_create_goes_on_with_what_is_there(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute("CREATE ROLE guest LOGIN")
    guest = await asyncpg.connect(database.replace("//lva@", "//guest@"))
    try:
        assert await migrate_if_allowed(guest) == []
        await connection.execute(
            "DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE ON SCHEMA public TO guest"
        )
        with pytest.raises(TablesMissingError):
            await migrate_if_allowed(guest)
    finally:
        await guest.close()
        await connection.execute("DROP OWNED BY guest; DROP ROLE guest")


async def test_a_database_of_the_first_version_keeps_its_rows_and_takes_those_of_older_boxes(
    fresh: asyncpg.Connection, empty_database: str
) -> None:
    """Case 59: forward with rows in it; rows that a box had waiting before its own upgrade still arrive."""
    first = migrations()[0]
    await migrate(fresh, (first,))
    old_row = json.loads(event_body(camera="old"))
    for key in ("clock_synced", "boot_id", "boot_s"):
        del old_row[key]
    await fresh.execute(
        "INSERT INTO events (event_id, site, camera, kind, priority, reason, detections, captured_at, detected_at,"
        " accepted_at) VALUES (gen_random_uuid(), 'test', 'there', 'object_left', 'low', '', '[]', now(), now(), now())"
    )
    assert await migrate(fresh) == [migration for migration in migrations() if migration != first]
    outbox = MemoryOutbox()
    outbox.put(("events", json.dumps(old_row)), ("events", event_body(camera="new", clock_synced=True)))
    async with uploading(empty_database, outbox):
        await outbox.wait_empty()
    assert not outbox.dead
    rows = await fresh.fetch("SELECT camera, clock_synced FROM event_log ORDER BY camera")
    assert [tuple(row) for row in rows] == [("new", True), ("old", None), ("there", None)]


async def test_tables_live_in_the_schema_of_the_search_path(connection: asyncpg.Connection, database: str) -> None:
    await connection.execute("CREATE SCHEMA cameras")
    other = await asyncpg.connect(f"{database}&search_path=cameras")
    assert await migrate(other) == list(migrations())
    assert await connection.fetchval("SELECT to_regclass('cameras.events')") is not None
    await other.close()
