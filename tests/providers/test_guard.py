"""One provider within bounds: when it is left alone, and when it is asked again."""

import asyncio
from datetime import UTC, datetime

import pytest
from structlog.testing import capture_logs

from providers.base import Failure, Outcome, ProviderError, Request
from providers.budget import MoneyBudget
from providers.guard import Guarded, Limits
from tests.providers.fakes import Clock, Fake, an_answer, failed, guarded
from tests.providers.samples import a_request, analysis, error, failure


async def ask_times(provider: Guarded, times: int) -> list[Outcome]:
    return [await provider.ask(a_request()) for _ in range(times)]


async def test_after_five_failures_it_is_left_alone() -> None:
    fake = Fake(failing=failed(Failure.SERVER_ERROR))
    provider = guarded(fake, clock := Clock())
    await ask_times(provider, 5)
    assert provider.state == "down"
    assert failure(await provider.ask(a_request())) is Failure.UNAVAILABLE
    assert len(fake.asked) == 5
    assert provider.wait_s == 15
    clock.pass_s(15)
    assert provider.wait_s == 0


async def test_one_picture_tries_a_provider_that_was_down() -> None:
    fake = Fake(failing=failed(Failure.SERVER_ERROR))
    provider = guarded(fake, clock := Clock())
    await ask_times(provider, 5)
    clock.pass_s(15)
    fake.failing = None
    gate, began = asyncio.Event(), asyncio.Event()

    async def held(request: Request) -> Outcome:
        began.set()
        await gate.wait()
        return an_answer(request)

    fake.script = held
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(provider.ask(a_request())) for _ in range(4)]
        await began.wait()
        gate.set()
    outcomes = [task.result() for task in tasks]
    analysis(outcomes[0])
    assert [failure(one) for one in outcomes[1:]] == [Failure.UNAVAILABLE] * 3
    assert provider.state == "up"


async def test_a_cancelled_trial_leaves_the_trial_to_the_next() -> None:
    fake = Fake(failing=failed(Failure.SERVER_ERROR))
    provider = guarded(fake, clock := Clock())
    await ask_times(provider, 5)
    clock.pass_s(15)

    began = asyncio.Event()

    async def never(_request: Request) -> Outcome:
        began.set()
        await asyncio.Event().wait()
        raise AssertionError

    fake.script = never
    trial = asyncio.create_task(provider.ask(a_request()))
    await began.wait()
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    fake.script = fake.failing = None
    analysis(await provider.ask(a_request()))


async def test_each_failed_trial_doubles_the_rest_up_to_five_minutes() -> None:
    fake = Fake(failing=failed(Failure.TIMEOUT))
    provider = guarded(fake, clock := Clock())
    await ask_times(provider, 5)
    rests = []
    for _ in range(7):
        rests.append(provider.wait_s)
        clock.pass_s(provider.wait_s)
        await provider.ask(a_request())
    assert rests == [15, 30, 60, 120, 240, 300, 300]


async def test_failures_of_the_item_leave_it_up() -> None:
    fake = Fake(failing=failed(Failure.INVALID_OUTPUT))
    provider = guarded(fake, Clock())
    await ask_times(provider, 20)
    assert provider.state == "up"
    assert len(fake.asked) == 20


async def test_answers_that_nearly_miss_the_deadline_count_as_bad() -> None:
    clock = Clock()

    async def slow(request: Request) -> Outcome:
        clock.pass_s(29)
        return an_answer(request)

    provider = guarded(Fake(script=slow), clock)
    outcomes = await ask_times(provider, 5)
    assert all(analysis(one) for one in outcomes)
    assert provider.state == "down"


async def test_a_provider_that_hangs_is_cut_off_at_its_deadline() -> None:
    async def never(_request: Request) -> Outcome:
        await asyncio.Event().wait()
        raise AssertionError

    provider = guarded(Fake(script=never), Clock(), timeout_s=0.01)
    assert failure(await provider.ask(a_request())) is Failure.TIMEOUT


async def test_waiting_for_its_turn_is_not_part_of_the_deadline() -> None:
    async def takes_a_while(request: Request) -> Outcome:
        await asyncio.sleep(0.03)
        return an_answer(request)

    provider = guarded(Fake(script=takes_a_while), Clock(), timeout_s=0.1, pictures_at_once=1)
    outcomes = await asyncio.gather(*(provider.ask(a_request()) for _ in range(6)))
    assert all(analysis(one) for one in outcomes)


async def test_pauses_double_until_an_answer_comes() -> None:
    fake = Fake(failing=failed(Failure.RATE_LIMITED))
    provider = guarded(fake, clock := Clock())
    pauses = []
    for _ in range(8):
        await provider.ask(a_request())
        assert provider.state == "paused"
        pauses.append(provider.wait_s)
        clock.pass_s(provider.wait_s)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    fake.failing = None
    await provider.ask(a_request())
    fake.failing = failed(Failure.OVERLOADED)
    await provider.ask(a_request())
    assert provider.wait_s == 1


async def test_the_servers_own_word_on_when_to_come_back_is_kept() -> None:
    provider = guarded(Fake(failing=failed(Failure.RATE_LIMITED, retry_after_s=42)), Clock())
    await provider.ask(a_request())
    assert provider.wait_s == 42


@pytest.mark.parametrize(("cause", "period_s"), [(Failure.NOT_FOUND, 60), (Failure.AUTH, 600)])
async def test_what_needs_a_person_is_parked_until_a_probe_succeeds(cause: Failure, period_s: float) -> None:
    fake = Fake(failing=failed(cause), probe_fails=failed(cause))
    provider = guarded(fake, clock := Clock())
    await ask_times(provider, 3)
    assert (provider.state, len(fake.asked), fake.probes) == ("parked", 1, 0)
    clock.pass_s(period_s)
    assert failure(await provider.ask(a_request())) is Failure.UNAVAILABLE
    assert (provider.state, len(fake.asked), fake.probes) == ("parked", 1, 1)
    clock.pass_s(period_s)
    fake.failing = fake.probe_fails = None
    analysis(await provider.ask(a_request()))
    assert provider.state == "up"


async def test_a_probe_that_is_asked_for_ends_a_parking_at_once() -> None:
    fake = Fake(failing=failed(Failure.AUTH))
    provider = guarded(fake, Clock())
    await ask_times(provider, 1)
    assert provider.state == "parked"
    assert await provider.probe() == "fine"
    assert provider.state == "up"


async def test_a_probe_that_hangs_is_cut_off_at_the_deadline() -> None:
    class Silent(Fake):
        async def probe(self) -> str:
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(ProviderError, match=r"no answer within 0\.01 s"):
        await guarded(Silent(), Clock(), timeout_s=0.01).probe()


async def test_bad_requests_in_a_row_are_not_about_the_pictures() -> None:
    fake = Fake(failing=failed(Failure.BAD_REQUEST))
    provider = guarded(fake, Clock())
    await ask_times(provider, 3)
    assert provider.state == "up"
    await ask_times(provider, 3)
    assert (provider.state, len(fake.asked)) == ("parked", 4)


async def test_a_spent_budget_ends_the_day_and_midnight_begins_another() -> None:
    day = datetime(2026, 11, 20, 23, 59, tzinfo=UTC)
    money = MoneyBudget(1.0, now=lambda: day)
    provider = Guarded(Fake(cost_usd=0.6), Limits(), money=money, clock=Clock())
    outcomes = await ask_times(provider, 3)
    assert [type(one).__name__ for one in outcomes] == ["Analysis", "Analysis", "ProviderError"]
    assert provider.state == "budget_spent"
    day = datetime(2026, 11, 21, 0, 0, tzinfo=UTC)
    analysis(await provider.ask(a_request()))


async def test_a_call_that_tells_no_tokens_is_charged_as_assumed() -> None:
    money = MoneyBudget(1.0)
    provider = Guarded(Fake(failing=failed(Failure.TIMEOUT)), Limits(assumed_usd=0.25), money=money, clock=Clock())
    await ask_times(provider, 2)
    assert money.spent_usd == 0.5


async def test_only_changes_of_state_are_logged() -> None:
    fake = Fake(name="eye", failing=failed(Failure.SERVER_ERROR))
    provider = guarded(fake, clock := Clock())
    with capture_logs() as logs:
        await ask_times(provider, 20)
        clock.pass_s(15)
        fake.failing = None
        await ask_times(provider, 20)
        fake.failing = failed(Failure.RATE_LIMITED)
        await ask_times(provider, 5)
        clock.pass_s(1)
        fake.failing = failed(Failure.AUTH)
        await ask_times(provider, 5)
    assert [one["event"] for one in logs] == [
        "provider.down",
        "provider.up",
        "provider.paused",
        "provider.parked",
    ]
    assert {one["provider"] for one in logs} == {"eye"}


async def test_the_stats_count_causes_and_tokens() -> None:
    fake = Fake()
    provider = guarded(fake, Clock())
    await ask_times(provider, 2)
    fake.failing = failed(Failure.EMPTY)
    await ask_times(provider, 1)
    stats = provider.stats
    assert (stats.asked, stats.answered, stats.failures) == (3, 2, {"empty": 1})
    assert (stats.tokens_in, stats.tokens_out) == (20, 4)


async def test_an_unavailable_provider_says_why_and_when() -> None:
    provider = guarded(Fake(failing=failed(Failure.RATE_LIMITED, retry_after_s=9)), Clock())
    await provider.ask(a_request())
    refused = error(await provider.ask(a_request()))
    assert "paused" in refused.message
    assert refused.retry_after_s == 9
