"""SIGKILL at any moment: nothing that was accepted is lost, and nothing is there twice."""

import asyncio
import random

from tests.faults.lives import Lives


async def kill_again_and_again(box: Lives, kills: int) -> None:
    """A third of the lives end while they start, the others anywhere within half a second."""
    lot = random.Random(box.settings.seed)
    for _ in range(kills):
        box.start()
        await asyncio.sleep(lot.choice([lot.uniform(0.005, 0.06), lot.uniform(0.005, 0.5), lot.uniform(0.005, 0.5)]))
        await box.kill()


async def test_fifty_kills_lose_nothing(box: Lives) -> None:
    """Case 14."""
    await kill_again_and_again(box, 50)
    verdict = await box.settle()
    assert verdict.accepted > 500
    assert set(verdict.outcomes) >= {"done", "degraded", "failed"}
