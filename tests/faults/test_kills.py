"""SIGKILL at any moment: nothing that was accepted is lost, and nothing is there twice."""

import asyncio
import random

import asyncpg
import pytest

from tests.faults.conftest import NewBox
from tests.faults.lives import Lives
from tests.faults.oracle import Verdict
from tests.faults.proxy import a_proxy


async def after_kills(box: Lives, kills: int) -> Verdict:
    """A third of the lives end while they start, the others anywhere within half a second."""
    lot = random.Random(box.settings.seed)
    for _ in range(kills):
        box.start()
        await asyncio.sleep(lot.choice([lot.uniform(0.005, 0.06), lot.uniform(0.005, 0.5), lot.uniform(0.005, 0.5)]))
        await box.kill()
    verdict = await box.settle()
    print(f"{kills} kills, {verdict.accepted} accepted, {verdict.unsaid} durable and unsaid, {dict(verdict.outcomes)}")
    return verdict


async def test_fifty_kills_lose_nothing(box: Lives) -> None:
    """Case 14."""
    verdict = await after_kills(box, 50)
    assert verdict.accepted > 50
    assert set(verdict.outcomes) >= {"done", "degraded", "failed"}


@pytest.mark.faults
@pytest.mark.parametrize("hundred", range(10))
async def test_a_thousand_kills_lose_nothing(box: Lives, hundred: int) -> None:
    """Case 14."""
    assert (await after_kills(box, 100)).accepted > 100


async def test_kills_while_a_backlog_is_taken_up_again_lose_nothing(new_box: NewBox, database: str) -> None:
    """Case 16."""
    box = new_box(database, config={"queue": {"limit": 5000}})
    nobody_answers = {"slow": 1.0, "slow_s": 60.0}
    box.start(events_per_s=1e6, at_once=64, script=nobody_answers)
    await box.until_accepted(500)
    await box.kill()
    for kill in range(12):
        box.start(script=nobody_answers)
        await asyncio.sleep(kill * 0.015)
        await box.kill()
    assert (await box.settle()).accepted > 500


async def test_kills_while_the_database_is_migrated_lose_nothing(new_box: NewBox, empty_database: str) -> None:
    """Case 16. On a slow line the migrations take long enough to be met in their middle."""
    async with a_proxy(empty_database) as proxy:
        box = new_box(empty_database, through=proxy.dsn)
        proxy.weather.delay_s = 0.003
        for kill in range(12):
            box.start()
            await asyncio.sleep(0.05 * 1.25**kill)
            await box.kill()
        proxy.weather.delay_s = 0.0
        await box.settle()
    connection = await asyncpg.connect(empty_database)
    versions = await connection.fetch("SELECT version FROM lva_migrations ORDER BY version")
    await connection.close()
    assert [row["version"] for row in versions] == list(range(1, len(versions) + 1))
