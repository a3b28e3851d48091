"""Second tries and the rate of calls, without waiting for real."""

from typing import Any

import pytest

from providers.base import Advice, Failure, ProviderError
from providers.budget import RetryBudget
from providers.calls import Calls
from providers.tally import Tally
from tests.providers.fakes import Clock


class Flaky:
    def __init__(self, *errors: ProviderError) -> None:
        self.errors = list(errors)
        self.asked = 0

    async def exchange(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return {"answer": "yes"}


def calls(server: Flaky, waits: list[float], *, share: float = 1, tally: Tally | None = None) -> Calls:
    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    return Calls(
        server,
        max_attempts=3,
        budget=RetryBudget(share, Clock()),
        tally=tally,
        sleep=sleep,
        uniform=lambda _low, high: high,
    )


def down(advice: Advice | None = None) -> ProviderError:
    return ProviderError(Failure.SERVER_ERROR, "down", advice=advice)


async def test_a_server_error_is_tried_again_with_growing_waits() -> None:
    waits: list[float] = []
    tally = Tally()
    assert await calls(Flaky(down(), down()), waits, tally=tally).post("/x", {}) == {"answer": "yes"}
    assert waits == [0.5, 1.0]
    assert tally.retries == 2


async def test_three_tries_are_all() -> None:
    server = Flaky(*[down()] * 9)
    with pytest.raises(ProviderError, match="down"):
        await calls(server, []).post("/x", {})
    assert server.asked == 3


async def test_retry_once_is_two_tries() -> None:
    server = Flaky(*[down(Advice.RETRY_ONCE)] * 9)
    with pytest.raises(ProviderError):
        await calls(server, []).get("/x")
    assert server.asked == 2


@pytest.mark.parametrize("advice", [Advice.ITEM, Advice.FAULT, Advice.PAUSE, Advice.PARK])
async def test_nothing_else_is_tried_again(advice: Advice) -> None:
    server = Flaky(*[down(advice)] * 9)
    with pytest.raises(ProviderError):
        await calls(server, []).post("/x", {})
    assert server.asked == 1


async def test_a_server_that_went_away_with_the_picture_is_asked_once_more() -> None:
    server = Flaky(*[down(Advice.ALONE)] * 9)
    with pytest.raises(ProviderError):
        await calls(server, []).post("/x", {})
    assert server.asked == 2


async def test_a_server_that_went_away_and_is_not_back_has_looked_all_the_same() -> None:
    gone = ProviderError(Failure.CONNECTION_ERROR, "nobody listens")
    server = Flaky(down(Advice.ALONE), gone)
    with pytest.raises(ProviderError) as raised:
        await calls(server, []).post("/x", {})
    assert (raised.value.failure, server.asked) == (Failure.SERVER_ERROR, 2)


async def test_the_budget_bounds_all_retries_of_a_minute() -> None:
    server = Flaky(*[down()] * 1000)
    asking = calls(server, [], share=0.2)
    for _ in range(100):
        with pytest.raises(ProviderError):
            await asking.post("/x", {})
    assert 100 < server.asked <= 126


def test_a_budget_of_zero_allows_no_retry() -> None:
    budget = RetryBudget(0, Clock())
    budget.called()
    assert not budget.take()


def test_a_quiet_box_gets_one_retry_a_minute() -> None:
    budget = RetryBudget(0.2, clock := Clock())
    budget.called()
    assert budget.take()
    assert not budget.take()
    clock.pass_s(61)
    budget.called()
    assert budget.take()
