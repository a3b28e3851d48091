"""Moondream on the own box: Station, and our own server."""

import asyncio

import pytest
from aiohttp import web

from providers.base import Failure, Question, Request
from providers.open import open_providers
from providers.settings import MoondreamSettings
from tests.providers.moondreams import ask, moondream
from tests.providers.samples import (
    FIRE,
    SCENE,
    VEHICLE,
    a_request,
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


async def test_a_full_local_server_is_paused(wire: Wire) -> None:
    wire.on("/v1/query", told({"error": "queue full"}, 503, {"Retry-After": "7"}))
    async with open_providers([moondream(wire, "local")]) as chain:
        [outcome] = await chain.analyze([a_request()])
        assert error(outcome).retry_after_s == pytest.approx(7, abs=0.5)
        assert chain.providers[0].state == "paused"


async def test_the_probe_asks_for_real(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": "yes", "model": "moondream2-2025"}))
    async with open_providers([moondream(wire, "local")]) as chain:
        assert await chain.probe() == "moondream: moondream2-2025"


async def test_the_order_of_requests_is_the_order_of_outcomes(wire: Wire) -> None:
    async def query(request: web.Request) -> web.StreamResponse:
        first = "fire" in (await request.json())["question"]
        await asyncio.sleep(0.05 if first else 0)
        return web.json_response({"answer": "yes" if first else "no"})

    wire.on("/v1/query", query)
    other = Question("smoke", FIRE.kind, "Is there smoke?")
    async with open_providers([moondream(wire, "local")]) as chain:
        outcomes = await chain.analyze([a_request(FIRE), a_request(other)])
    assert [values(one) for one in outcomes] == [{"fire": True}, {"smoke": False}]
