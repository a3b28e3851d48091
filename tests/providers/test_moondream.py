"""Moondream's skills, as the cloud speaks them: what is sent, and what each reply means."""

from typing import Any

import pytest
from aiohttp import web

from providers.base import AnswerStatus, Box, Failure, Point
from tests.providers.moondreams import YES, ask, moondream
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
async def test_an_error_is_looked_for_before_the_answer(wire: Wire, reply: Handler, expected: Failure) -> None:
    wire.on("/v1/query", reply)
    assert failure(await ask(moondream(wire))) is expected


@pytest.mark.parametrize(
    ("status", "cause"),
    [(401, "auth"), (402, "auth"), (403, "auth"), (404, "not_found"), (429, "rate_limited")],
)
async def test_what_no_one_looked_at_is_unavailable_with_its_cause(wire: Wire, status: int, cause: str) -> None:
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


async def test_a_model_that_cannot_tell_is_unknown(wire: Wire) -> None:
    wire.on("/v1/query", told({"answer": "Unclear."}))
    [answer] = analysis(await ask(moondream(wire))).answers
    assert (answer.value, answer.status) == (None, AnswerStatus.UNKNOWN)
