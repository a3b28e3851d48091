import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from pipeline.events import Gap
from pipeline.identity import fresh_id
from pipeline.retention import count_old, prune, prune_for_ever
from pipeline.rows import alarm_row, dead_letter_row, gap_row, to_json
from pipeline.store import open_store
from tests.store.outbox import MemoryOutbox, whole_event
from tests.store.sending import settings_for, uploading

MONTH = timedelta(days=30)


@pytest.fixture
async def forty_events(database: str) -> None:
    """Half of them captured two months ago."""
    outbox = MemoryOutbox()
    now = datetime.now(UTC)
    for number in range(40):
        outbox.put(*whole_event(captured_at=now - timedelta(days=60 * (number % 2))))
    async with uploading(database, outbox):
        await outbox.wait_empty()


async def counts(connection: asyncpg.Connection) -> list[Any]:
    return [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in ("events", "analyses", "outcomes")]


@pytest.mark.usefixtures("forty_events")
async def test_what_is_old_goes_with_all_that_belongs_to_it(connection: asyncpg.Connection) -> None:
    assert (await count_old(connection, MONTH))["events"] == 20
    assert (await prune(connection, MONTH, batch_rows=3))["events"] == 20
    assert await counts(connection) == [20, 20, 20]
    assert not any((await prune(connection, MONTH)).values())


@pytest.mark.usefixtures("forty_events")
async def test_what_lost_its_event_goes_too(connection: asyncpg.Connection) -> None:
    await connection.execute("DELETE FROM events; UPDATE outcomes SET ended_at = ended_at - interval '1 year'")
    assert (await prune(connection, timedelta(days=200), batch_rows=7))["outcomes"] == 40


async def test_gaps_letters_and_alarms_grow_old_too(database: str, connection: asyncpg.Connection) -> None:
    outbox = MemoryOutbox()
    for at in (datetime.now(UTC) - timedelta(days=60), datetime.now(UTC)):
        outbox.put(
            ("gaps", to_json(gap_row(Gap(fresh_id(), "test", "yard", at, at, "refused")))),
            ("dead_letters", to_json(dead_letter_row("events", "22P05", "", "{}", at))),
            ("alarms", to_json(alarm_row("test", "disk_full", "", at))),
        )
    async with uploading(database, outbox):
        await outbox.wait_empty()
    old = {"gaps": 1, "dead_letters": 1, "alarms": 1}
    assert (await count_old(connection, MONTH)).items() >= old.items()
    assert (await prune(connection, MONTH)).items() >= old.items()
    assert [await connection.fetchval(f"SELECT count(*) FROM {table}") for table in old] == [1, 1, 1]


@pytest.mark.usefixtures("forty_events")
async def test_keeping_nothing_is_refused(connection: asyncpg.Connection) -> None:
    with pytest.raises(ValueError, match="keep nothing"):
        await prune(connection, timedelta(0))
    assert await counts(connection) == [40, 40, 40]


@pytest.mark.usefixtures("forty_events")
async def test_the_daemon_prunes_day_by_day_and_never_with_zero_days(
    database: str, connection: asyncpg.Connection
) -> None:
    async with open_store(settings_for(database)) as store:
        await prune_for_ever(store, 0)
        assert await counts(connection) == [40, 40, 40]
        task = asyncio.create_task(prune_for_ever(store, 30))
        while await counts(connection) != [20, 20, 20]:  # noqa: ASYNC110 - another session's work
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
