"""Moondream on the own box: Station, and our own server."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from providers.base import Failure, Question, QuestionKind, Request
from providers.open import open_providers
from providers.settings import MoondreamSettings
from tests.providers.moondreams import ask, moondream
from tests.providers.samples import (
    FIRE,
    SCENE,
    VEHICLE,
    a_request,
    analysis,
    error,
    failure,
    values,
)
from tests.providers.wire import Wire, told


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ({"error": "Queue is full", "status": "rejected"}, "overloaded"),
        ({"error": "Request timeout", "status": "timeout"}, "timeout"),
        ({"error": "image_url and question are required"}, "bad_request"),
        ({"error": "Function 'query' not available"}, "not_found"),
        ({"error": "Inference service not started"}, "server_error"),
        ({"error": "CUDA error: out of memory"}, "server_error"),
    ],
)
async def test_station_tells_its_errors_under_200(wire: Wire, body: dict[str, str], cause: str) -> None:
    wire.on("/v1/query", told(body))
    [attempt] = error(await ask(moondream(wire, "station"))).attempts
    assert str(attempt.failure) == cause


async def test_station_is_asked_without_a_key_and_told_the_deadline(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": "yes", "_stats": {"tokens": 1, "duration": 0.42}}))
    assert values(await ask(moondream(wire, "station"))) == {"fire": True}
    [asked] = wire.asked
    assert "X-Moondream-Auth" not in asked.headers
    assert "model" not in asked.body
    assert asked.body["timeout"] == 5


async def test_station_starting_up_is_a_server_error(wire: Wire) -> None:
    wire.on("/v1/query", told({"detail": "Inference service not running"}, 503))
    assert failure(await ask(moondream(wire, "station"))) is Failure.SERVER_ERROR


async def test_station_is_asked_about_one_picture_at_a_time(wire: Wire) -> None:
    most = await most_at_once(wire, moondream(wire, "station", concurrency=8), a_request(FIRE, VEHICLE))
    assert most == 1


async def test_our_own_server_gets_all_questions_of_a_batch_together(wire: Wire) -> None:
    most = await most_at_once(wire, moondream(wire, "local"), a_request(FIRE, SCENE), hold_until=4)
    assert most == 4


async def most_at_once(wire: Wire, settings: MoondreamSettings, request: Request, hold_until: int = 1) -> int:
    """How many calls were open at the same time while two pictures were asked about."""
    enough = asyncio.Event()
    now = most = 0

    async def query(_request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now >= hold_until:
            enough.set()
        await enough.wait()
        now -= 1
        return web.json_response({"answer": "no"})

    wire.on("/v1/query", query)
    async with open_providers([settings]) as chain:
        await chain.analyze([request, a_request(*request.questions)])
    return most


def likely(answer: str, probability: float = 0.9, mass: float = 0.99, other: str = "") -> dict[str, Any]:
    """As our own server says it."""
    other = other or ("no" if answer == "yes" else "yes")
    return {"answer": answer, "probabilities": {answer: probability, other: 1 - probability}, "mass": mass}


async def test_our_own_server_decides_by_likelihood_and_that_is_the_confidence(wire: Wire) -> None:
    wire.on("/v1/query", told(likely("yes", 0.75)))
    [answer] = analysis(await ask(moondream(wire, "local"), a_request(FIRE))).answers
    assert (answer.value, answer.confidence, answer.confidence_source) == (True, 0.75, "logits")
    [body] = wire.bodies("/v1/query")
    assert (body["question"], body["choices"]) == (FIRE.wording, ["yes", "no"])


async def test_our_own_server_hears_how_urgent_it_is(wire: Wire) -> None:
    wire.on("/v1/query", told(likely("yes")))
    await ask(moondream(wire, "local"), replace(a_request(FIRE), urgency=2))
    assert wire.bodies("/v1/query")[0]["priority"] == 2


async def test_a_choice_is_one_of_its_own(wire: Wire) -> None:
    wire.on("/v1/query", told(likely("truck", 0.6, other="car")))
    [answer] = analysis(await ask(moondream(wire, "local"), a_request(VEHICLE))).answers
    assert (answer.value, answer.confidence) == ("truck", 0.6)
    assert wire.bodies("/v1/query")[0]["choices"] == list(VEHICLE.choices)


async def test_each_label_is_a_question_and_the_least_sure_one_is_the_confidence(wire: Wire) -> None:
    async def query(request: web.Request) -> web.StreamResponse:
        is_dog = "a dog" in (await request.json())["question"]
        return web.json_response(likely("yes", 0.7) if is_dog else likely("no", 0.95))

    wire.on("/v1/query", query)
    question = Question("objects", QuestionKind.LABELS, "What is there?", ("dog", "umbrella"))
    [answer] = analysis(await ask(moondream(wire, "local"), a_request(question))).answers
    assert (answer.value, answer.confidence, answer.status) == (("dog",), 0.7, "ok")
    asked = {body["question"] for body in wire.bodies("/v1/query")}
    assert asked == {"Is there a dog in the picture?", "Is there an umbrella in the picture?"}


async def test_where_the_model_would_rather_say_something_else_the_answer_is_unknown(wire: Wire) -> None:
    wire.on("/v1/query", told(likely("yes", 0.99, mass=0.001)))
    [answer] = analysis(await ask(moondream(wire, "local"), a_request(FIRE))).answers
    assert (answer.value, answer.status, answer.confidence) == (None, "unknown", None)


@pytest.mark.parametrize(
    "body",
    [
        {"answer": "yes"},
        {"answer": "maybe", "probabilities": {"maybe": 1.0}, "mass": 1.0},
        {"answer": "yes", "probabilities": {"no": 1.0}, "mass": 1.0},
        {"answer": "yes", "probabilities": {"yes": "sure"}, "mass": 1.0},
        {"answer": "yes", "probabilities": {"yes": 7}, "mass": 1.0},
        {"answer": "yes", "probabilities": {"yes": 0.9}},
        {"answer": ["yes"], "probabilities": {"yes": 0.9}, "mass": 1.0},
    ],
)
async def test_a_reply_without_likelihoods_is_no_answer(wire: Wire, body: dict[str, Any]) -> None:
    wire.on("/v1/query", told(body))
    assert failure(await ask(moondream(wire, "local"), a_request(FIRE))) is Failure.INVALID_OUTPUT


async def test_a_full_local_server_is_paused(wire: Wire) -> None:
    wire.on("/v1/query", told({"error": "queue full"}, 503, {"Retry-After": "7"}))
    async with open_providers([moondream(wire, "local")]) as chain:
        [outcome] = await chain.analyze([a_request()])
        assert error(outcome).retry_after_s == pytest.approx(7, abs=0.5)
        assert chain.providers[0].state == "paused"


async def test_the_probe_asks_for_real(wire: Wire) -> None:
    wire.on("/v1/query", told(likely("yes") | {"model": "moondream2-2025"}))
    async with open_providers([moondream(wire, "local")]) as chain:
        assert await chain.probe() == "moondream: moondream2-2025"


async def test_the_order_of_requests_is_the_order_of_outcomes(wire: Wire) -> None:
    async def query(request: web.Request) -> web.StreamResponse:
        first = "fire" in (await request.json())["question"]
        await asyncio.sleep(0.05 if first else 0)
        return web.json_response(likely("yes" if first else "no"))

    wire.on("/v1/query", query)
    other = Question("smoke", FIRE.kind, "Is there smoke?")
    async with open_providers([moondream(wire, "local")]) as chain:
        outcomes = await chain.analyze([a_request(FIRE), a_request(other)])
    assert [values(one) for one in outcomes] == [{"fire": True}, {"smoke": False}]
