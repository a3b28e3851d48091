"""The suite can fail: with one reason taken away for which nothing is lost, the oracle finds what is."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from tests.faults.conftest import NewBox
from tests.faults.lives import a_life
from tests.faults.mutations import MUTATIONS
from tests.faults.oracle import OracleError, Verdict, check
from tests.faults.proxy import a_proxy

KILLS = 8
SEED = "mutations"
"""The same for the code as it is and for what is made of it."""

Scenario = Callable[[NewBox, str, str], Awaitable[Verdict]]


async def kills_and_cut_replies(new_box: NewBox, database: str, mutation: str) -> Verdict:
    """A busy box is killed again and again, and the database's replies get lost."""
    async with a_proxy(database) as proxy:
        busy = {"events_per_s": 3000, "at_once": 32, "config": {"drain_s": 2 if mutation else 20}}
        box = new_box(database, through=proxy.dsn, seed=SEED, mutation=mutation, **busy)
        proxy.weather.replies_to_cut, proxy.weather.share_of_replies_to_cut = 1, 0.2
        lot = random.Random(SEED)
        for _ in range(KILLS):
            box.start()
            await box.until_accepted(30)
            await box.until(lambda: proxy.cut > 0)
            await asyncio.sleep(lot.uniform(0.01, 0.2))
            await box.kill()
        proxy.weather.share_of_replies_to_cut = 0.0
        return await box.settle()


async def a_grant_is_away(new_box: NewBox, database: str, mutation: str) -> Verdict:
    """Somebody takes the right to insert, and gives it back."""
    owner = await asyncpg.connect(database)
    await owner.execute("CREATE ROLE lva_mutant LOGIN; GRANT INSERT ON ALL TABLES IN SCHEMA public TO lva_mutant")
    try:
        box = new_box(database, through=database.replace("//lva@", "//lva_mutant@"), seed=SEED, mutation=mutation)
        async with a_life(box):
            await box.until_accepted(20)
            await owner.execute("REVOKE INSERT ON events FROM lva_mutant")
            await box.until(lambda: bool(box.logged("upload.refused") or box.logged("upload.dead_letter")))
            await owner.execute("GRANT INSERT ON events TO lva_mutant")
        return await box.settle()
    finally:
        await owner.execute("DROP OWNED BY lva_mutant; DROP ROLE lva_mutant")
        await owner.close()


async def memory_loses_ids(new_box: NewBox, database: str, mutation: str) -> Verdict:
    """Between queue and worker, ids are gone. One life: the next start would take them up from the journal anyway."""
    patient = {"connect_timeout_s": 60, "command_timeout_s": 300}
    box = new_box(database, seed=SEED, mutation=mutation, time_rate=30.0, config={"drain_s": 60, "database": patient})
    box.start(count=200, events_per_s=100, ids_lost=0.1)
    await box.end()
    return await check(database, box.evidence, seed=SEED)


FINDS = {
    "outbox_deleted_before_the_reply": (kills_and_cut_replies, ("accepted and not there",)),
    "no_on_conflict": (kills_and_cut_replies, ("without an outcome", "dead letters")),
    "accepted_before_the_commit": (kills_and_cut_replies, ("accepted and not there",)),
    "finished_in_two_transactions": (kills_and_cut_replies, ("without an outcome",)),
    "leases_not_returned": (kills_and_cut_replies, ("without an outcome",)),
    "a_missing_right_is_the_rows_fault": (a_grant_is_away, ("dead letters",)),
    "no_reconciler": (memory_loses_ids, ("without an outcome",)),
}
"""Mutation, the scenario that brings it to light, and one of what the oracle finds. That `synchronous=NORMAL` loses
what was acknowledged takes a power cut: `test_power_cut.py` has it."""


def test_each_mutation_is_tried() -> None:
    assert set(FINDS) == set(MUTATIONS)


@pytest.mark.parametrize(
    "scenario", dict.fromkeys(scenario for scenario, _ in FINDS.values()), ids=lambda one: one.__name__
)
async def test_as_it_is_the_oracle_finds_nothing(new_box: NewBox, database: str, scenario: Scenario) -> None:
    verdict = await scenario(new_box, database, "")
    print(f"accepted {verdict.accepted}, outcomes {dict(verdict.outcomes)}")


@pytest.mark.parametrize("mutation", FINDS)
async def test_mutated_the_oracle_finds_what_is_lost(new_box: NewBox, database: str, mutation: str) -> None:
    scenario, faults = FINDS[mutation]
    with pytest.raises(OracleError) as found:
        await scenario(new_box, database, mutation)
    print(found.value)
    assert any(each.startswith(faults) for each in found.value.faults)
