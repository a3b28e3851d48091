"""Moondream Cloud, Station and our own server: what is sent, and what each reply means."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from providers.base import AnswerStatus, Box, Failure, Outcome, Point, Question, Request
from providers.open import open_providers
from providers.settings import MoondreamSettings
from tests.providers.samples import (
    A_BOX,
    CAPTION,
    CAR_POINTS,
    FIRE,
    PEOPLE,
    PERSON_BOXES,
    SCENE,
    THINGS,
    VEHICLE,
    a_request,
    analysis,
    error,
    failure,
    statuses,
    values,
)
from tests.providers.wire import Handler, Wire, told

YES = told({"request_id": "1", "answer": "Yes", "metrics": {"input_tokens": 735, "output_tokens": 2}})


def moondream(wire: Wire, dialect: str = "cloud", **more: Any) -> MoondreamSettings:
    usual: dict[str, Any] = {"max_attempts": 1, "rate_per_s": 1000, "timeout_s": 5}
    if dialect == "cloud":
        usual["api_key"] = "md-secret-key"
    return MoondreamSettings(kind="moondream", dialect=dialect, base_url=wire.url + "/v1", **(usual | more))


async def ask(settings: MoondreamSettings, request: Request | None = None) -> Outcome:
    async with open_providers([settings]) as chain:
        [outcome] = await chain.analyze([request or a_request(FIRE)])
        return outcome


async def test_a_closed_question_goes_out_as_the_contract_says(wire: Wire) -> None:
    wire.on("/v1/query", YES)
    outcome = await ask(moondream(wire))
    [asked] = wire.asked
    assert asked.headers["X-Moondream-Auth"] == "md-secret-key"
    assert asked.body.pop("image_url").startswith("data:image/jpeg;base64,/9j/")
    assert asked.body == {
        "model": "moondream3.1-9B-A2B",
        "question": "Is there a fire? Answer yes or no.",
        "reasoning": False,
        "stream": False,
        "settings": {"temperature": 0, "max_tokens": 16},
    }
    assert values(outcome) == {"fire": True}


async def test_each_kind_of_question_finds_its_skill(wire: Wire) -> None:
    def by_question(body: dict[str, Any]) -> str:
        answers = {"fire": "No.", "What is it": "A truck.", "What is vis": "a man and two dogs, no cars"}
        return next((a for q, a in answers.items() if q in body["question"]), "A yard at night.")

    async def query(request: web.Request) -> web.StreamResponse:
        return web.json_response({"answer": by_question(await request.json())})

    wire.on("/v1/query", query)
    wire.on("/v1/detect", told({"objects": [A_BOX, A_BOX]}))
    wire.on("/v1/point", told({"points": [{"x": 0.5, "y": 0.25}], "count": 1}))
    wire.on("/v1/caption", told({"caption": "A quiet yard."}))
    request = a_request(FIRE, VEHICLE, THINGS, SCENE, CAPTION, PEOPLE, PERSON_BOXES, CAR_POINTS)
    assert values(await ask(moondream(wire), request)) == {
        "fire": False,
        "vehicle": "truck",
        "things": ("person", "dog"),
        "scene": "A yard at night.",
        "caption": "A quiet yard.",
        "people": 2,
        "where": (Box(0.1, 0.2, 0.3, 0.4), Box(0.1, 0.2, 0.3, 0.4)),
        "cars": (Point(0.5, 0.25),),
    }


async def test_a_count_and_boxes_of_one_thing_share_a_call(wire: Wire) -> None:
    wire.on("/v1/detect", told({"objects": []}))
    outcome = await ask(moondream(wire), a_request(PEOPLE, PERSON_BOXES))
    assert values(outcome) == {"people": 0, "where": ()}
    assert len(wire.asked) == 1


async def test_tokens_add_up_to_a_cost(wire: Wire) -> None:
    wire.on("/v1/query", YES)
    outcome = await ask(moondream(wire, usd_per_million_tokens_in=0.3, usd_per_million_tokens_out=2.5))
    done = analysis(outcome)
    assert (done.tokens_in, done.tokens_out) == (735, 2)
    assert done.cost_usd == pytest.approx(735 * 0.3e-6 + 2 * 2.5e-6)


async def test_without_metrics_tokens_and_cost_are_not_known(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": "no"}))
    done = analysis(await ask(moondream(wire, usd_per_million_tokens_in=0.3)))
    assert (done.tokens_in, done.cost_usd) == (None, None)


async def test_an_answer_that_is_none_spoils_only_its_own_question(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": "I'm sorry, please paste the image."}))
    wire.on("/v1/detect", told({"objects": [A_BOX]}))
    outcome = await ask(moondream(wire), a_request(FIRE, PEOPLE))
    assert values(outcome) == {"fire": None, "people": 1}
    assert statuses(outcome) == {"fire": "error", "people": "ok"}
    assert "sorry" in analysis(outcome).answers[0].raw


async def test_no_readable_answer_at_all_is_a_failure(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": "a bounding box [0.1, 0.2]"}))
    assert failure(await ask(moondream(wire))) is Failure.INVALID_OUTPUT


async def test_only_empty_answers_are_empty(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": " "}))
    assert failure(await ask(moondream(wire))) is Failure.EMPTY


async def test_an_answer_that_was_cut_off_is_truncated_even_if_it_reads_well(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": "Yes", "finish_reason": "length"}))
    assert failure(await ask(moondream(wire))) is Failure.TRUNCATED


@pytest.mark.parametrize(
    "objects",
    [
        [{"x_min": 12, "y_min": 40, "x_max": 300, "y_max": 420}],
        [A_BOX, {"x_min": 0.9, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}],
        [{"x_min": 0.1}],
        {"x_min": 0.1},
        None,
    ],
)
async def test_objects_that_are_no_boxes_are_never_a_count(wire: Wire, objects: Any) -> None:
    wire.on("/v1/detect", told({"objects": objects}))
    assert failure(await ask(moondream(wire), a_request(PEOPLE))) is Failure.INVALID_OUTPUT


async def test_a_box_a_little_over_the_edge_is_cut_off_there(wire: Wire) -> None:
    wire.on("/v1/detect", told({"objects": [{"x_min": -0.01, "y_min": 0, "x_max": 0.5, "y_max": 1.02}]}))
    assert values(await ask(moondream(wire), a_request(PERSON_BOXES))) == {"where": (Box(0, 0, 0.5, 1),)}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (told({"answer": "yes", "error": "gone wrong"}), Failure.SERVER_ERROR),
        (
            told({"error": {"message": "bad image", "type": "invalid", "param": None, "code": 1}}, 400),
            Failure.BAD_REQUEST,
        ),
        (told({"error": "too big"}, 413), Failure.TOO_LARGE),
        (told({"detail": "boom"}, 500), Failure.SERVER_ERROR),
        (told({"error": "gateway"}, 502), Failure.SERVER_ERROR),
    ],
)
async def test_an_error_is_looked_for_before_the_answer(
    wire: Wire, reply: Handler, expected: Failure
) -> None:
    wire.on("/v1/query", reply)
    assert failure(await ask(moondream(wire))) is expected


@pytest.mark.parametrize(
    ("status", "cause"),
    [(401, "auth"), (402, "auth"), (403, "auth"), (404, "not_found"), (429, "rate_limited")],
)
async def test_what_no_one_looked_at_is_unavailable_with_its_cause(
    wire: Wire, status: int, cause: str
) -> None:
    wire.on("/v1/query", told({"error": "no"}, status))
    outcome = error(await ask(moondream(wire)))
    assert outcome.failure is Failure.UNAVAILABLE
    assert [str(one.failure) for one in outcome.attempts] == [cause]


async def test_the_own_key_is_taken_out_of_what_a_server_echoes(wire: Wire) -> None:
    wire.on("/v1/query", told({"error": "bad key md-secret-key"}, 401))
    assert "bad key ***" in error(await ask(moondream(wire))).message


async def test_a_picture_never_comes_back_in_a_message(wire: Wire) -> None:
    wire.on("/v1/query", told({"error": "bad image data:image/jpeg;base64," + "/9j/4AAQ" * 100}, 400))
    assert "/9j/" not in error(await ask(moondream(wire))).message


async def test_a_server_error_is_tried_again_for_that_question_only(wire: Wire) -> None:
    wire.on("/v1/detect", told({"objects": []}))
    wire.on("/v1/query", told({"error": "hiccup"}, 500), YES)
    settings = moondream(wire, max_attempts=3, retry_budget=1)
    assert values(await ask(settings, a_request(PEOPLE, FIRE))) == {"people": 0, "fire": True}
    assert [one.path for one in wire.asked] == ["/v1/detect", "/v1/query", "/v1/query"]


async def test_a_server_that_fails_is_not_asked_the_remaining_questions(wire: Wire) -> None:
    wire.on("/v1/query", told({"error": "down"}, 500))
    assert failure(await ask(moondream(wire), a_request(FIRE, VEHICLE, SCENE))) is Failure.SERVER_ERROR
    assert len(wire.asked) == 1


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
        assert await chain.probe() == "moondream: moondream moondream2-2025"


async def test_a_model_that_cannot_tell_is_unknown(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": "Unclear."}))
    [answer] = analysis(await ask(moondream(wire))).answers
    assert (answer.value, answer.status) == (None, AnswerStatus.UNKNOWN)


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
