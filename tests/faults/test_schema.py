"""What somebody does to the tables while boxes are at work: nothing is given up, and it goes on by itself."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from pipeline.migrations import migrate, migrations
from tests.faults.conftest import NewBox
from tests.faults.lives import Lives, a_life

BOX = "lva_faulty_box"

TROUBLE = {
    "table": (
        "ALTER TABLE outcomes RENAME TO away",
        "ALTER TABLE away RENAME TO outcomes",
        "run `lva db migrate`",
    ),
    "column": (
        "ALTER TABLE events RENAME COLUMN camera TO lens",
        "ALTER TABLE events RENAME COLUMN lens TO camera",
        "run `lva db migrate`",
    ),
    "grant": (
        f"REVOKE INSERT ON events FROM {BOX}",
        f"GRANT INSERT ON events TO {BOX}",
        "permission denied",
    ),
    "partition": (
        """ALTER TABLE events RENAME TO plain;
           CREATE TABLE events (LIKE plain INCLUDING DEFAULTS, PRIMARY KEY (event_id, captured_at))
               PARTITION BY RANGE (captured_at);
           CREATE TABLE events_2020 PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
           GRANT INSERT ON events TO lva_faulty_box""",
        """CREATE TABLE events_else PARTITION OF events DEFAULT;
           INSERT INTO events SELECT * FROM plain""",
        "partition",
    ),
}  # fmt: skip


@pytest.fixture
async def role(database: str, connection: asyncpg.Connection) -> AsyncIterator[str]:
    """The address of `database` for a role that may insert, and nothing else."""
    await connection.execute(f"CREATE ROLE {BOX} LOGIN; GRANT INSERT ON ALL TABLES IN SCHEMA public TO {BOX}")
    yield database.replace("//lva@", f"//{BOX}@")
    await connection.execute(f"DROP OWNED BY {BOX}; DROP ROLE {BOX}")


@pytest.mark.parametrize("what", TROUBLE)
async def test_what_is_missing_is_told_and_waited_for(
    new_box: NewBox, database: str, role: str, connection: asyncpg.Connection, what: str
) -> None:
    """Case 11."""
    trouble, remedy, words = TROUBLE[what]
    box = new_box(database, through=role)
    async with a_life(box):
        await box.until_accepted(50)
        await connection.execute(trouble)
        refused = await box.until_logged("upload.refused", 2)
        assert all(line["level"] == "error" and words in line["reason"] for line in refused)
        await box.until_accepted(50)
        await connection.execute(remedy)
        await box.until_logged("upload.resumed")
        assert not box.logged("upload.dead_letter")
    await box.settle()


async def test_an_older_box_goes_on_with_a_newer_database(box: Lives, connection: asyncpg.Connection) -> None:
    """Case 62. Its columns are all there, and the new ones have defaults."""
    async with a_life(box):
        await box.until_accepted(50)
        await connection.execute("""
            ALTER TABLE events ADD COLUMN weather text NOT NULL DEFAULT 'unknown';
            ALTER TABLE outcomes ADD COLUMN by_whom text;
            INSERT INTO lva_migrations (version, name, sha256) VALUES (99, 'later', 'of a later lva')
        """)
        await box.until_accepted(50)
    async with a_life(box):
        await box.until_accepted(50)
        await box.until_logged("database.newer")
    verdict = await box.settle()
    assert verdict.accepted == await connection.fetchval("SELECT count(*) FROM events WHERE weather = 'unknown'")


async def test_a_newer_box_waits_for_an_older_database(new_box: NewBox, empty_database: str, postgres: str) -> None:
    """Case 62. It may not migrate: somebody has to."""
    owner = await asyncpg.connect(empty_database)
    await migrate(owner, migrations()[:1])
    await owner.execute(f"CREATE ROLE {BOX} LOGIN; GRANT INSERT ON ALL TABLES IN SCHEMA public TO {BOX}")
    box = new_box(empty_database, through=empty_database.replace("//lva@", f"//{BOX}@"))
    async with a_life(box):
        await box.until_logged("upload.refused", 2)
        await box.until_accepted(50)
        await migrate(owner)
        await owner.execute(f"GRANT INSERT ON ALL TABLES IN SCHEMA public TO {BOX}")
        await box.until_logged("upload.resumed")
    await box.settle()
    await owner.execute(f"DROP OWNED BY {BOX}; DROP ROLE {BOX}")
    await owner.close()


async def test_two_boxes_of_one_name_do_not_get_into_each_others_way(new_box: NewBox, database: str) -> None:
    """Case 63."""
    one, other = new_box(database), new_box(database)
    async with a_life(one), a_life(other):
        await one.until_accepted(200)
        await other.until_accepted(200)
        await one.kill()
        one.start()
        await one.until_accepted(50)
    await other.live(count=20)
    await one.settle(beside=[other])
