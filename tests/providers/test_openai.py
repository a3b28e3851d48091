"""Chat completions as vLLM, llama.cpp and LM Studio speak them."""

import json
from typing import Any

import pytest

from providers.base import Failure, Outcome, Request
from providers.open import open_providers
from providers.settings import OpenAISettings
from tests.providers.samples import FIRE, SCENE, VEHICLE, a_request, analysis, error, failure, values
from tests.providers.wire import Handler, Wire, told


def openai(wire: Wire, **more: Any) -> OpenAISettings:
    usual: dict[str, Any] = {"max_attempts": 1, "timeout_s": 5, "model": "qwen-vl"}
    return OpenAISettings(kind="openai", base_url=wire.url + "/v1", **(usual | more))


def completion(content: Any, finish_reason: str = "stop", model: str = "qwen-vl") -> Handler:
    text = json.dumps(content) if isinstance(content, dict) else content
    return told(
        {
            "id": "1",
            "object": "chat.completion",
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": finish_reason,
                }
            ],
            "usage": {"prompt_tokens": 900, "completion_tokens": 30, "total_tokens": 930},
        }
    )


async def ask(settings: OpenAISettings, request: Request | None = None) -> Outcome:
    async with open_providers([settings]) as chain:
        [outcome] = await chain.analyze([request or a_request(FIRE)])
        return outcome


async def test_a_picture_is_one_completion_with_a_strict_schema(wire: Wire) -> None:
    wire.on("/v1/chat/completions", completion({"fire": True, "vehicle": "TRUCK", "scene": "A truck burns."}))
    outcome = await ask(openai(wire, api_key="sk-1"), a_request(FIRE, VEHICLE, SCENE))
    assert values(outcome) == {"fire": True, "vehicle": "truck", "scene": "A truck burns."}
    [asked] = wire.asked
    assert asked.headers["Authorization"] == "Bearer sk-1"
    form = asked.body["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"]["strict"] is True
    assert form["json_schema"]["schema"]["properties"]["vehicle"]["enum"] == ["car", "truck", "none", None]
    picture, words = asked.body["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,/9j/")
    assert "Is there a fire?" in words["text"]


async def test_without_a_key_no_key_is_sent(wire: Wire) -> None:
    wire.on("/v1/chat/completions", completion({"fire": True}))
    await ask(openai(wire))
    assert "Authorization" not in wire.asked[0].headers


async def test_the_row_names_the_model_that_answered(wire: Wire) -> None:
    wire.on("/v1/chat/completions", completion({"fire": True}, model="whatever-is-loaded"))
    done = analysis(await ask(openai(wire)))
    assert (done.model, done.model_version) == ("qwen-vl", "whatever-is-loaded")
    assert (done.tokens_in, done.tokens_out) == (900, 30)


async def test_an_unconstrained_answer_in_a_fence_is_mended_once(wire: Wire) -> None:
    wire.on("/v1/chat/completions", completion("Sure! Here it is:\n```json\n{'fire': True,}\n```\nAnything else?"))
    assert values(await ask(openai(wire))) == {"fire": True}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (completion({"fire": True}, "length"), Failure.TRUNCATED),
        (completion({"fire": True}, "content_filter"), Failure.INVALID_OUTPUT),
        (completion(None), Failure.EMPTY),
        (completion("   "), Failure.EMPTY),
        (completion({}), Failure.INVALID_OUTPUT),
        (completion({"fire": True, "extra": 1}), Failure.INVALID_OUTPUT),
        (completion({"fire": "maybe"}), Failure.INVALID_OUTPUT),
        (told({"object": "chat.completion", "choices": []}), Failure.INVALID_OUTPUT),
    ],
)
async def test_an_answer_that_is_none_fails(wire: Wire, reply: Handler, expected: Failure) -> None:
    wire.on("/v1/chat/completions", reply)
    assert failure(await ask(openai(wire))) is expected


@pytest.mark.parametrize(
    ("reply", "cause", "state"),
    [
        (told({"error": "Unauthorized"}, 401), "auth", "parked"),
        (
            told({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}, 503),
            "overloaded",
            "paused",
        ),
        (told({"error": {"message": "No models loaded"}}, 404), "not_found", "parked"),
        (told({"error": {"message": "image input is not supported"}}, 501), "not_found", "parked"),
        (
            told({"error": {"message": "too long", "type": "exceed_context_size_error"}}, 400),
            "bad_request",
            "up",
        ),
        (told({"error": "Unexpected endpoint or method. (POST /v1/chat)"}), "not_found", "parked"),
        (told({"error": {"message": "the request exceeds the available context size"}}), "bad_request", "up"),
        (told({"error": {"message": "EngineDeadError"}}, 500), "server_error", "up"),
        (told({"error": "busy"}, 429), "rate_limited", "paused"),
    ],
)
async def test_each_error_has_its_cause_and_its_consequence(wire: Wire, reply: Handler, cause: str, state: str) -> None:
    wire.on("/v1/chat/completions", reply)
    async with open_providers([openai(wire)]) as chain:
        [outcome] = await chain.analyze([a_request()])
        assert [str(one.failure) for one in error(outcome).attempts] == [cause]
        assert chain.providers[0].state == state
