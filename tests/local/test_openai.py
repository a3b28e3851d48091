"""The OpenAI dialect, with the client that OpenAI publishes."""

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

openai = pytest.importorskip("openai")

from providers.base import Answer, AnswerStatus, Question, QuestionKind, Request  # noqa: E402
from providers.local.engine import Engine  # noqa: E402
from providers.local.server import Service, listening  # noqa: E402
from providers.local.settings import ServerSettings  # noqa: E402
from providers.open import open_providers  # noqa: E402
from providers.settings import OpenAISettings  # noqa: E402
from tests.local.conftest import VECTORS, free_port  # noqa: E402
from tests.providers.samples import FIRE, a_request, analysis  # noqa: E402

INDEX = json.loads((VECTORS / "vectors.json").read_text())
TOKEN = "open sesame"
PERSON = "Is there a person in the image?"
BOX = {side: {"type": "number"} for side in ("x_min", "y_min", "x_max", "y_max")}
SCHEMA = {
    "type": "object",
    "properties": {
        "anyone": {"type": "boolean", "description": PERSON},
        "place": {"enum": ["street", "shop", "back yard"]},
        "people": {"type": "integer", "description": "How many people?"},
        "story": {"type": "string", "description": PERSON},
        "car": {"type": "array", "items": {"type": "object", "properties": BOX}},
    },
    "required": ["anyone"],
}


@pytest.fixture
async def address(engine: Engine) -> AsyncIterator[str]:
    service = Service(ServerSettings(), "moondream2", TOKEN)
    service.engine = engine
    async with listening(service, ServerSettings(port=free_port())) as url:
        yield f"{url}/v1"


@pytest.fixture
async def client(address: str) -> AsyncIterator[Any]:
    async with openai.AsyncOpenAI(base_url=address, api_key=TOKEN, max_retries=0) as opened:
        yield opened


def message(text: str, picture: bytes | None = None) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if picture:
        url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
    return {"role": "user", "content": parts}


def by_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "scene", "schema": schema}}


async def test_a_question_about_a_picture(client: Any, pictures: dict[str, bytes]) -> None:
    [told] = [one for one in INDEX["query"] if (one["image"], one["question"]) == ("a_640x360", PERSON)]
    answer = await client.chat.completions.create(
        model="moondream2", messages=[message(PERSON, pictures["a_640x360"])], max_completion_tokens=16, temperature=0
    )
    assert answer.choices[0].message.content == told["text"].strip()
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len(told["tokens"])
    assert answer.usage.prompt_tokens == told["start_pos"] + len(told["prompt_ids"])


async def test_which_models_there_are(client: Any) -> None:
    assert [model.id async for model in client.models.list()] == ["moondream2"]


async def test_a_schema_is_filled_field_by_field(client: Any, pictures: dict[str, bytes]) -> None:
    answer = await client.chat.completions.create(
        model="moondream2",
        messages=[{"role": "system", "content": "Look closely."}, message("What is there?", pictures["a_640x360"])],
        response_format=by_schema(SCHEMA),
        max_tokens=16,
    )
    filled = json.loads(answer.choices[0].message.content)
    assert list(filled) == list(SCHEMA["properties"])
    assert isinstance(filled["anyone"], bool)
    assert filled["place"] in ("street", "shop", "back yard")
    assert filled["people"] is None or isinstance(filled["people"], int)
    assert isinstance(filled["story"], str)
    assert all(box.keys() == BOX.keys() for box in filled["car"])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"stream": True}, "stream"),
        ({"n": 2}, "n: "),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input_audio"),
        ({"messages": [message("a", b"1"), message("b", b"2")]}, "one at a time"),
        ({"messages": [message("a", b"no picture")]}, "none of JPEG"),
        ({"response_format": {"type": "json_object"}}, "json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            "object",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"a": {"type": "null"}}}},
                }
            },
            "property 'a'",
        ),
        ({"temperature": 99}, "temperature"),
    ],
)
async def test_what_is_wrong_is_a_bad_request(client: Any, more: dict[str, Any], words: str) -> None:
    body = {"model": "moondream2", "messages": [message("What is there?")]} | more
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(**body)
    assert words in caught.value.message


async def test_a_wrong_key_is_told(address: str) -> None:
    async with openai.AsyncOpenAI(base_url=address, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_our_own_provider_of_that_dialect_gets_its_json(address: str, pictures: dict[str, bytes]) -> None:
    """Every kind of question in one call, by the schema that the daemon sends."""
    settings = OpenAISettings(kind="openai", base_url=address, model="moondream2", api_key=TOKEN, timeout_s=60)
    questions = (
        FIRE,
        Question("place", QuestionKind.CHOICE, "What place is it?", ("street", "shop")),
        Question("people", QuestionKind.COUNT, "How many people?", object="person"),
        Question("objects", QuestionKind.LABELS, "What is there?", ("dog", "car")),
        Question("boxes", QuestionKind.BOXES, "Where is each car?", object="car"),
        Question("points", QuestionKind.POINTS, "Where is each car?", object="car"),
        Question("story", QuestionKind.TEXT, "What happens?"),
    )
    request: Request = a_request(*questions)
    async with open_providers([settings]) as chain:
        [outcome] = await chain.analyze([request])
    answers: tuple[Answer, ...] = analysis(outcome).answers
    assert {answer.question.name for answer in answers} == {question.name for question in questions}
    told = {answer.question.name: answer.status for answer in answers}
    assert {told[name] for name in ("fire", "place", "objects")} == {AnswerStatus.OK}
