"""Ollama: the chat with the schema in `format`, and every way in which it was seen to fail."""

import json
from typing import Any

import pytest

from providers.base import Failure, Outcome, Request
from providers.open import open_providers
from providers.settings import OllamaSettings
from tests.providers.samples import (
    FIRE,
    PEOPLE,
    THINGS,
    a_request,
    analysis,
    error,
    failure,
    statuses,
    values,
)
from tests.providers.wire import Handler, Wire, told

SEES = told({"capabilities": ["completion", "vision"]})


def ollama(wire: Wire, **more: Any) -> OllamaSettings:
    usual: dict[str, Any] = {"max_attempts": 1, "timeout_s": 5, "model": "qwen3-vl:2b"}
    return OllamaSettings(kind="ollama", base_url=wire.url, **(usual | more))


def chat(content: object, done_reason: str = "stop", **more: Any) -> Handler:
    text = content if isinstance(content, str) else json.dumps(content)
    return told(
        {
            "model": "qwen3-vl:2b",
            "created_at": "2026-11-01T00:00:00Z",
            "message": {"role": "assistant", "content": text},
            "done": True,
            "done_reason": done_reason,
            "total_duration": 1,
            "prompt_eval_count": 600,
            "eval_count": 20,
        }
        | more
    )


@pytest.fixture(autouse=True)
def _a_model_that_sees(wire: Wire) -> None:
    wire.on("/api/show", SEES)
    wire.on("/api/tags", told({"models": [{"name": "qwen3-vl:2b", "digest": "sha256:0123456789abcdef"}]}))
    wire.on("/api/version", told({"version": "0.35.1"}))


async def ask(settings: OllamaSettings, request: Request | None = None) -> Outcome:
    async with open_providers([settings]) as chain:
        [outcome] = await chain.analyze([request or a_request(FIRE)])
        return outcome


async def test_a_picture_is_one_chat_with_the_schema(wire: Wire) -> None:
    wire.on("/api/chat", chat({"fire": False, "people": 2, "things": ["dog"]}))
    outcome = await ask(ollama(wire), a_request(FIRE, PEOPLE, THINGS))
    assert values(outcome) == {"fire": False, "people": 2, "things": ("dog",)}
    [body] = wire.bodies("/api/chat")
    assert body["think"] is False
    assert body["stream"] is False
    assert body["keep_alive"] == "30m"
    assert body["options"] == {"temperature": 0, "seed": 1, "num_predict": 256, "num_ctx": 4096}
    assert body["format"]["required"] == ["fire", "people", "things"]
    assert body["format"]["additionalProperties"] is False
    [message] = body["messages"]
    assert message["images"][0].startswith("/9j/")
    assert "How many people are visible?" in message["content"]


async def test_the_row_names_the_digest_and_the_tokens(wire: Wire) -> None:
    wire.on("/api/chat", chat({"fire": True}))
    done = analysis(await ask(ollama(wire)))
    assert (done.model, done.model_version) == ("qwen3-vl:2b", "qwen3-vl:2b@0123456789ab")
    assert (done.tokens_in, done.tokens_out) == (600, 20)


async def test_the_model_is_looked_up_once_for_many_pictures(wire: Wire) -> None:
    wire.on("/api/chat", chat({"fire": True}))
    async with open_providers([ollama(wire)]) as chain:
        await chain.analyze([a_request(), a_request(), a_request()])
    assert len(wire.bodies("/api/show")) == 1


async def test_a_text_only_model_is_parked_before_any_picture(wire: Wire) -> None:
    wire.on("/api/show", told({"capabilities": ["completion"]}))
    async with open_providers([ollama(wire)]) as chain:
        [outcome] = await chain.analyze([a_request()])
        assert "can't see pictures" in error(outcome).message
        assert chain.providers[0].state == "parked"
    assert wire.bodies("/api/chat") == []


async def test_an_older_server_without_capabilities_is_taken_at_its_word(wire: Wire) -> None:
    wire.on("/api/show", told({"details": {}}))
    wire.on("/api/chat", chat({"fire": True}))
    assert values(await ask(ollama(wire))) == {"fire": True}


async def test_null_is_how_a_model_says_that_it_cannot_tell(wire: Wire) -> None:
    wire.on("/api/chat", chat({"fire": None}))
    assert statuses(await ask(ollama(wire))) == {"fire": "unknown"}


async def test_a_truncated_answer_is_asked_for_once_more_with_twice_the_room(wire: Wire) -> None:
    wire.on("/api/chat", chat({"fire": True}, "length"), chat({"fire": False}))
    assert values(await ask(ollama(wire))) == {"fire": False}
    assert [body["options"]["num_predict"] for body in wire.bodies("/api/chat")] == [256, 512]


async def test_truncated_twice_is_truncated_even_if_it_parses(wire: Wire) -> None:
    wire.on("/api/chat", chat({"fire": True}, "length"))
    assert failure(await ask(ollama(wire))) is Failure.TRUNCATED


async def test_the_empty_answer_of_small_models_is_empty(wire: Wire) -> None:
    wire.on("/api/chat", chat("", eval_count=1))
    assert failure(await ask(ollama(wire))) is Failure.EMPTY


@pytest.mark.parametrize(
    ("reply", "cause", "state"),
    [
        (told({"error": "model 'x' not found"}, 404), "not_found", "parked"),
        (told({"error": "x does not support chat"}, 400), "bad_request", "parked"),
        (told({"error": "invalid JSON"}, 400), "bad_request", "up"),
        (told({"error": "cloud is disabled"}, 403), "auth", "parked"),
        (told({"error": "slow down"}, 429), "rate_limited", "paused"),
        (told({"error": "request canceled"}, 499), "connection_error", "up"),
        (told({"error": "llama runner process has terminated"}, 500), "server_error", "up"),
        (told({"error": "no cloud"}, 502), "server_error", "up"),
        (told({"error": "server busy, maximum pending requests exceeded"}, 503), "overloaded", "paused"),
        (told({"error": "in mid-stream"}), "server_error", "up"),
        (told({"done": True, "done_reason": "stop"}), "invalid_output", "up"),
        (chat({"fire": True}, "load"), "invalid_output", "up"),
    ],
)
async def test_each_error_has_its_cause_and_its_consequence(wire: Wire, reply: Handler, cause: str, state: str) -> None:
    wire.on("/api/chat", reply)
    async with open_providers([ollama(wire)]) as chain:
        [outcome] = await chain.analyze([a_request()])
        assert [str(one.failure) for one in error(outcome).attempts] == [cause]
        assert chain.providers[0].state == state


async def test_the_probe_names_the_model_and_the_server(wire: Wire) -> None:
    wire.on("/api/chat", chat({"disc": True}))
    async with open_providers([ollama(wire)]) as chain:
        assert await chain.probe() == "ollama: qwen3-vl:2b@0123456789ab on Ollama 0.35.1"


async def test_a_probe_that_is_answered_unusably_still_shows_that_somebody_is_there(wire: Wire) -> None:
    wire.on("/api/chat", chat(""))
    async with open_providers([ollama(wire)]) as chain:
        assert "answers, though not usably (empty" in await chain.probe()
