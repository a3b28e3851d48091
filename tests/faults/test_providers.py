"""Cases 38, 39 and 41: model servers that fail, hang, flood, or answer in another order than they were asked."""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import cv2
import numpy as np
import pytest

from providers.base import Analysis, Failure, Request
from providers.open import open_providers
from tests.faults.dialects import DIALECTS, asking, settings_for
from tests.faults.provider import Asked, FakeProvider, Manner, Reply, good, said, told
from tests.faults.resources import resident_kb
from tests.providers.samples import PEOPLE, a_request, analysis, error, values


def in_half_a_minute() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)


FAILING: dict[str, tuple[Callable[[], Reply], int, str]] = {
    "500": (lambda: told({"error": "out of memory"}, 500), 9, "down"),
    "503": (lambda: told({"error": "loading"}, 503), 1, "paused"),
    "429": (lambda: told({"error": "slow down"}, 429), 1, "paused"),
    "429, in seconds": (lambda: told({"error": "slow down"}, 429, Retry_After="30"), 1, "paused"),
    "429, by date": (lambda: told({"error": "slow down"}, 429, Retry_After=in_half_a_minute()), 1, "paused"),
}
"""What it answers, how often it is asked at most before it is left alone, and how."""


@pytest.mark.parametrize("failing", FAILING)
async def test_a_server_that_fails_is_left_alone_and_the_next_one_answers(failing: str) -> None:
    """Case 38."""
    reply, asked_at_most, state = FAILING[failing]
    async with FakeProvider(lambda _asked: reply()) as first, FakeProvider(good) as second:
        chain_of = [settings_for("openai", first.url, name="first"), settings_for("openai", second.url, name="second")]
        async with open_providers(chain_of) as chain:
            for _ in range(30):
                [outcome] = await chain.analyze([a_request()])
                assert analysis(outcome).provider == "second"
            assert len(first.pictures) <= asked_at_most
            assert chain.providers[0].state == state
            if "," in failing:
                assert 25 < chain.providers[0].wait_s <= 30
        assert len(second.pictures) == 30


async def test_a_server_that_refuses_is_left_alone_and_the_next_one_answers() -> None:
    """Case 38."""
    async with FakeProvider(good) as first, FakeProvider(good) as second:
        chain_of = [settings_for("openai", first.url, name="first"), settings_for("openai", second.url, name="second")]
        await first.stop()
        async with open_providers(chain_of) as chain:
            outcomes = [(await chain.analyze([a_request()]))[0] for _ in range(10)]
            assert [analysis(outcome).provider for outcome in outcomes] == ["second"] * 10
            causes = [analysis(outcome).attempts[0].failure for outcome in outcomes]
            assert causes == [Failure.CONNECTION_ERROR] * 5 + [Failure.UNAVAILABLE] * 5
            assert chain.providers[0].state == "down"


async def test_of_all_calls_no_more_than_a_fifth_are_second_tries() -> None:
    """Case 38. Counted at the server, which fails every third time: without the budget half as many calls again."""
    lot = random.Random(38)

    def fails_at_times(asked: Asked) -> Reply:
        return told({"error": "try again"}, 500) if lot.random() < 0.33 else good(asked)

    async with FakeProvider(fails_at_times) as server, asking(server, "openai", concurrency=32, timeout_s=60) as chain:
        await chain.analyze([a_request() for _ in range(300)])
        [stats] = chain.stats()
    assert stats.retries == len(server.pictures) - 300
    assert 0.1 < stats.retries / len(server.pictures) <= 0.2


UNFINISHED = {
    Manner.SILENT: {Failure.TIMEOUT},
    Manner.NO_BODY: {Failure.TIMEOUT},
    Manner.TRICKLE: {Failure.TIMEOUT},
    Manner.ENDLESS_BODY: {Failure.SERVER_ERROR},
    Manner.ENDLESS_HEADERS: {Failure.CONNECTION_ERROR, Failure.UNAVAILABLE},
    Manner.CUT: {Failure.SERVER_ERROR},
    Manner.RESET: {Failure.SERVER_ERROR},
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("manner", UNFINISHED)
async def test_a_reply_that_never_ends_is_left_in_time_and_in_measure(manner: Manner, dialect: str) -> None:
    """Case 39. Nothing of it stands in the way of the next."""
    content = said(Asked("POST", "/x/chat/completions", {}, b"", 0.0), "y" * 1000).content
    async with (
        FakeProvider(lambda _asked: Reply(content, manner=manner)) as server,
        asking(server, dialect, timeout_s=0.5, max_attempts=1) as chain,
    ):
        before_kb = resident_kb()
        async with asyncio.timeout(5):
            outcomes = await chain.analyze([a_request(PEOPLE) for _ in range(2)])
        assert {error(outcome).failure for outcome in outcomes} <= UNFINISHED[manner]
        assert resident_kb() - before_kb < 32 * 1024
        server.script = good
        [outcome] = await chain.analyze([a_request(PEOPLE)])
        assert values(outcome) == {"people": 1}


def picture_of(number: int) -> bytes:
    """A picture that says how many: by its brightness."""
    return bytes(cv2.imencode(".jpg", np.full((32, 32, 3), number * 8, np.uint8))[1])


def number_of(jpeg: bytes) -> int:
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return round(float(picture.mean()) / 8)


def counts(asked: Asked) -> Reply:
    """Tells the number that the picture shows, in every dialect."""
    number = number_of(asked.jpeg)
    if asked.path.endswith("/detect"):
        return told({"objects": [{"x_min": 0.1, "y_min": 0.1, "x_max": 0.2, "y_max": 0.2}] * number})
    return said(asked, f'{{"people": {number}}}')


class Shuffler:
    """Keeps replies back until so many are asked for, then lets them go in any order."""

    def __init__(self, together: int) -> None:
        self._together = together
        self._held: list[asyncio.Event] = []
        self._lot = random.Random(41)

    def __call__(self, asked: Asked) -> Reply:
        reply = counts(asked)
        self._held.append(go := asyncio.Event())
        if len(self._held) == self._together:
            self._lot.shuffle(self._held)
            for turn, held in enumerate(self._held):
                asyncio.get_running_loop().call_later(0.002 * turn, held.set)
            self._held = []
        return Reply(reply.content, after=go)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_answers_in_another_order_go_to_the_events_that_they_are_about(dialect: str) -> None:
    """Case 41. The answer depends on the picture, so that one in the wrong place would show."""
    requests = [Request(a_request().event_id, picture_of(number), (PEOPLE,)) for number in range(24)]
    async with FakeProvider(Shuffler(8)) as server, asking(server, dialect) as chain:
        outcomes = await chain.analyze(requests)
    assert len(server.pictures) == 24
    for number, request, outcome in zip(range(24), requests, outcomes, strict=True):
        assert isinstance(outcome, Analysis)
        assert (outcome.event_id, values(outcome)) == (request.event_id, {"people": number})
