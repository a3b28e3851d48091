"""More events than anyone can answer, all of them urgent: memory and disk stay within bounds, and each has its row."""

from collections import Counter
from pathlib import Path

import asyncpg
import pytest

from tests.faults.conftest import NewBox
from tests.faults.lives import Lives, a_life
from tests.faults.proxy import a_proxy

MB = 2**20
QUOTA_MB = 16
BESIDE_MB = 80
"""Beside the quota: the journal's reserves, and its write-ahead log."""
GROWTH_KB = 32 * 1024


FLOOD = {"quiet": True, "events_per_s": 1e6, "at_once": 64, "priorities": ("critical",) * 19 + ("low",)}
BOUNDS = {"journal": {"quota_mb": QUOTA_MB}, "queue": {"limit": 1000}}


async def test_a_flood_of_the_most_urgent_does_not_grow_in_memory(
    new_box: NewBox, database: str, connection: asyncpg.Connection
) -> None:
    """Case 45. The urgent stand before all else; the others are shed first, and that is a row."""
    box = new_box(database, config=BOUNDS)
    async with a_life(box, **FLOOD):
        await box.until_accepted(1500)
        before_kb = box.resident_kb()
        await box.until_accepted(3000)
        assert is_within_its_bounds(box)
    assert box.ended()["peak_kb"] - before_kb < GROWTH_KB
    await box.settle()
    ended = await how_they_ended(connection)
    assert ended["low", "shed"] > ended["low", "done"]


@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_a_flood_that_fills_the_journal_stays_within_memory_and_disk(
    new_box: NewBox, database: str, connection: asyncpg.Connection
) -> None:
    """Case 45. The database is away until the journal is full."""
    async with a_proxy(database) as proxy:
        await proxy.close()
        box = new_box(database, through=proxy.dsn, config=BOUNDS)
        async with a_life(box, **FLOOD):
            await box.until_accepted(4000)
            before_kb = box.resident_kb()
            await box.until(lambda: is_within_its_bounds(box) and bool(box.logged("event.refused")))
            await proxy.open()
            await box.until_accepted(4000)
        assert box.ended()["peak_kb"] - before_kb < GROWTH_KB
        await box.settle()
    print(await how_they_ended(connection))
    assert await connection.fetchval("SELECT count(*) FROM gaps WHERE reason LIKE 'journal full%'")


def is_within_its_bounds(box: Lives) -> bool:
    return sum(file.stat().st_size for file in Path(box.settings.state_dir).iterdir()) < (QUOTA_MB + BESIDE_MB) * MB


async def how_they_ended(connection: asyncpg.Connection) -> Counter[tuple[str, str]]:
    """How many events by class and outcome."""
    query = "SELECT priority, outcome FROM events JOIN outcomes USING (event_id)"
    return Counter((row["priority"], row["outcome"]) for row in await connection.fetch(query))
