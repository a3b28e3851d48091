"""Fallback, item by item."""

import asyncio

import pytest

from providers.base import Failure, Outcome, ProviderError, Request
from providers.chain import ProviderChain
from providers.open import open_providers
from providers.settings import DetectionsSettings, OllamaSettings, ProviderSettings
from tests.providers.fakes import Clock, Fake, an_answer, failed, guarded
from tests.providers.samples import a_request, analysis, error, failure


def chain_of(*fakes: Fake) -> ProviderChain:
    return ProviderChain([guarded(fake, Clock()) for fake in fakes])


async def test_only_what_failed_goes_to_the_next() -> None:
    poison, good = a_request(), a_request()

    async def chokes(request: Request) -> Outcome:
        return failed(Failure.INVALID_OUTPUT) if request is poison else an_answer(request, "first")

    second = Fake("second")
    outcomes = await chain_of(Fake("first", script=chokes), second).analyze([poison, good])
    assert [analysis(one).provider for one in outcomes] == ["second", "first"]
    assert second.asked == [poison]


async def test_the_row_tells_who_was_tried_before_and_why_they_failed() -> None:
    chain = chain_of(Fake("a", failing=failed(Failure.TIMEOUT)), Fake("b", failing=failed(Failure.AUTH)), Fake("c"))
    [outcome] = await chain.analyze([a_request()])
    assert [(one.provider, one.failure) for one in analysis(outcome).attempts] == [
        ("a", Failure.TIMEOUT),
        ("b", Failure.AUTH),
        ("c", None),
    ]


async def test_a_failed_item_does_not_wait_for_the_rest_of_its_batch() -> None:
    slow, quick = a_request(), a_request()
    answered = asyncio.Event()

    async def first(request: Request) -> Outcome:
        if request is quick:
            return failed(Failure.EMPTY)
        await answered.wait()
        return an_answer(request, "first")

    async def second(request: Request) -> Outcome:
        answered.set()
        return an_answer(request, "second")

    outcomes = await chain_of(Fake("first", script=first), Fake("second", script=second)).analyze([slow, quick])
    assert [analysis(one).provider for one in outcomes] == ["first", "second"]


async def test_when_someone_looked_the_failure_is_theirs() -> None:
    chain = chain_of(
        Fake("a", failing=failed(Failure.CONNECTION_ERROR)), Fake("b", failing=failed(Failure.INVALID_OUTPUT))
    )
    [outcome] = await chain.analyze([a_request()])
    assert failure(outcome) is Failure.INVALID_OUTPUT
    assert [one.provider for one in error(outcome).attempts] == ["a", "b"]


@pytest.mark.parametrize(
    "cause",
    [Failure.CONNECTION_ERROR, Failure.AUTH, Failure.NOT_FOUND, Failure.RATE_LIMITED, Failure.OVERLOADED],
)
async def test_when_nobody_looked_the_work_is_to_be_kept(cause: Failure) -> None:
    [outcome] = await chain_of(Fake("a", failing=failed(cause))).analyze([a_request()])
    assert failure(outcome) is Failure.UNAVAILABLE
    assert error(outcome).retry_after_s is not None


async def test_the_wait_is_that_of_the_first_who_may_be_asked_again() -> None:
    chain = chain_of(
        Fake("a", failing=failed(Failure.RATE_LIMITED, 40)), Fake("b", failing=failed(Failure.OVERLOADED, 7))
    )
    [outcome] = await chain.analyze([a_request()])
    assert error(outcome).retry_after_s == 7
    assert chain.wait_s == 7


async def test_the_useful_batch_is_that_of_the_first_who_is_up() -> None:
    first = Fake("a", failing=failed(Failure.AUTH))
    clock = Clock()
    chain = ProviderChain([guarded(first, clock, pictures_at_once=1), guarded(Fake("b"), clock, pictures_at_once=8)])
    assert chain.pictures_at_once == 1
    await chain.analyze([a_request()])
    assert chain.pictures_at_once == 8


async def test_the_probe_names_all_who_answer() -> None:
    chain = chain_of(Fake("a"), Fake("b", probe_fails=failed(Failure.AUTH)), Fake("c"))
    assert await chain.probe() == "a: fine; c: fine"


async def test_a_probe_that_nobody_answers_says_why_for_each() -> None:
    chain = chain_of(Fake("a", probe_fails=failed(Failure.AUTH)), Fake("b", probe_fails=failed(Failure.TIMEOUT)))
    with pytest.raises(ProviderError, match=r"a: auth: as told; b: timeout: as told") as raised:
        await chain.probe()
    assert [one.failure for one in raised.value.attempts] == [Failure.AUTH, Failure.TIMEOUT]


async def test_a_chain_of_nobody_says_so() -> None:
    chain = chain_of()
    [outcome] = await chain.analyze([a_request()])
    assert failure(outcome) is Failure.UNAVAILABLE
    assert "no provider is configured" in error(outcome).message
    assert (chain.pictures_at_once, chain.wait_s) == (1, 0.0)


async def test_the_stats_come_in_the_chains_order() -> None:
    chain = chain_of(Fake("a", failing=failed(Failure.EMPTY)), Fake("b"))
    await chain.analyze([a_request(), a_request()])
    assert [(one.name, one.asked, one.answered) for one in chain.stats()] == [("a", 2, 0), ("b", 2, 2)]


async def test_two_providers_of_one_name_are_refused() -> None:
    twice = [OllamaSettings(kind="ollama"), OllamaSettings(kind="ollama", model="qwen3-vl:2b")]
    with pytest.raises(ValueError, match="two providers are called 'ollama'"):
        async with open_providers(twice):
            pass


async def test_a_dead_server_falls_back_to_the_detector() -> None:
    settings: list[ProviderSettings] = [
        OllamaSettings(kind="ollama", base_url="http://127.0.0.1:9", max_attempts=1),
        DetectionsSettings(kind="detections"),
    ]
    async with open_providers(settings) as chain:
        [outcome] = await chain.analyze([a_request()])
    done = analysis(outcome)
    assert (done.provider, done.degraded) == ("detections", True)
    assert [one.failure for one in done.attempts] == [Failure.CONNECTION_ERROR, None]
