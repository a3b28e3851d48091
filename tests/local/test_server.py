"""The server over HTTP: Moondream's dialect and its errors. One engine with random weights answers."""

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector
from PIL import Image

from providers.local.engine import Engine
from providers.local.server import Service, listening
from providers.local.settings import ServerSettings
from tests.local.conftest import VECTORS

INDEX = json.loads((VECTORS / "vectors.json").read_text())
PERSON = "Is there a person in the image?"


class Caller:
    """What a client of the dialect sends, and what it hears."""

    def __init__(self, session: ClientSession, picture: bytes) -> None:
        self.session = session
        self.url = "http://lva-model"
        self.picture = as_url(picture)

    async def post(self, path: str, body: Any, **more: Any) -> tuple[int, dict[str, Any]]:
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self.session.post(f"{self.url}{path}", data=BytesIO(sent), **more) as response:
            return response.status, await response.json()

    async def ask(self, question: str = PERSON, **more: Any) -> dict[str, Any]:
        body = {"image_url": self.picture, "question": question, "settings": {"max_tokens": 16}} | more
        status, answer = await self.post("/v1/query", body)
        assert status == 200, answer
        return answer

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(f"{self.url}{path}") as response:
            is_json = response.content_type == "application/json"
            return response.status, await (response.json() if is_json else response.text())


def as_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


@pytest.fixture
async def caller(engine: Engine, pictures: dict[str, bytes]) -> AsyncIterator[Caller]:
    async with a_caller(engine, pictures, ServerSettings()) as opened:
        yield opened


@asynccontextmanager
async def a_caller(
    engine: Engine | None, pictures: dict[str, bytes], settings: ServerSettings, token: str = ""
) -> AsyncIterator[Caller]:
    """A server over the engine, on a socket of its own, and a client."""
    with TemporaryDirectory() as folder:
        socket = Path(folder) / "socket"
        service = Service(settings, "small", token)
        service.engine = engine
        async with (
            listening(service, settings.model_copy(update={"unix_socket": socket})),
            ClientSession(connector=UnixConnector(str(socket))) as session,
        ):
            yield Caller(session, pictures["a_640x360"])


def case(task: str, **wanted: Any) -> dict[str, Any]:
    """A recorded one."""
    return next(
        one
        for one in INDEX[task]
        if one["image"] == "a_640x360" and all(one[key] == value for key, value in wanted.items())
    )


async def test_a_question_is_answered_as_the_reference_answers_it(caller: Caller) -> None:
    answer = await caller.ask()
    told = case("query", question=PERSON)
    assert (answer["answer"], answer["finish_reason"]) == (told["text"], "stop")
    assert answer["metrics"]["output_tokens"] == len(told["tokens"])
    assert answer["metrics"]["input_tokens"] == told["start_pos"] + len(told["prompt_ids"])


async def test_an_answer_that_is_cut_off_says_so(caller: Caller) -> None:
    assert (await caller.ask(settings={"max_tokens": 3}))["finish_reason"] == "length"


async def test_reasoning_and_places(caller: Caller) -> None:
    told = case("reasoning")
    answer = await caller.ask(told["question"], reasoning=True, settings={"max_tokens": 24})
    assert (answer["answer"], answer["reasoning"]["text"]) == (told["answer"], told["reasoning_text"])
    told = case("spatial_query")
    assert (await caller.ask(told["question"], spatial_refs=told["spatial_refs"]))["answer"] == told["text"]


async def test_a_question_without_a_picture(caller: Caller) -> None:
    [told, *_] = INDEX["text_only_query"]
    assert (await caller.ask(told["question"], image_url=None))["answer"] == told["text"]


async def test_captions_boxes_and_points(caller: Caller) -> None:
    picture = {"image_url": caller.picture}
    told = case("caption", length="short")
    _, answer = await caller.post("/v1/caption", picture | {"length": "short", "settings": {"max_tokens": 16}})
    assert answer["caption"] == told["text"]
    told = case("point", max_objects=8)
    _, answer = await caller.post("/v1/point", picture | {"object": told["object"], "settings": {"max_objects": 8}})
    distinct = [dict(one) for one in dict.fromkeys(tuple(point.items()) for point in told["points"])]
    assert (answer["points"], answer["count"]) == (distinct, len(distinct))
    _, answer = await caller.post("/v1/detect", picture | {"object": "person", "settings": {"max_objects": 8}})
    for box in answer["objects"]:
        assert 0 <= box["x_min"] < box["x_max"] <= 1
        assert 0 <= box["y_min"] < box["y_max"] <= 1


async def test_of_choices_the_likeliest_is_taken_with_its_probability(caller: Caller) -> None:
    answer = await caller.ask(choices=["yes", "no"])
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["answer"] == max(answer["probabilities"], key=answer["probabilities"].get)
    assert 0 < answer["mass"] <= 1
    longer = await caller.ask(choices=["a red car", "nobody", "a blue truck and a van"])
    assert sum(longer["probabilities"].values()) == pytest.approx(1)
    assert longer["answer"] == max(longer["probabilities"], key=longer["probabilities"].get)


async def test_a_batch_of_events_with_several_questions_each_reaches_the_engine_as_one(
    caller: Caller, pictures: dict[str, bytes]
) -> None:
    """Four pictures with five questions each, asked at the same time as a daemon's worker does."""
    questions = [one["question"] for one in INDEX["query"] if one["image"] == "a_640x360"][:5]
    four = [as_url(picture) for name, picture in pictures.items() if not name.startswith("d_")]
    told = await asyncio.gather(*(caller.ask(question, image_url=url) for url in four for question in questions))
    assert len(told) == 20
    _, stats = await caller.get("/v1/stats")
    assert stats["largest_batch"] == 20
    assert stats["pictures_encoded"] == 4
    assert stats["steps"] <= 17


async def test_who_hangs_up_frees_the_place(caller: Caller) -> None:
    asking = asyncio.create_task(caller.ask(settings={"max_tokens": 768}))
    await until(caller, lambda stats: stats["active"] == 1)
    asking.cancel()
    await until(caller, lambda stats: stats["active"] == 0)
    assert (await caller.ask())["finish_reason"] == "stop"


async def test_who_waits_too_long_is_told_and_frees_the_place(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"question": PERSON, "timeout": 0.05, "settings": {"max_tokens": 768}}
    status, answer = await caller.post("/v1/query", body)
    if status == 200:
        pytest.skip("this machine is too fast for that")
    assert (status, "no answer in time" in answer["error"]["message"]) == (504, True)
    await until(caller, lambda stats: stats["active"] == 0)


async def until(caller: Caller, holds: Any) -> None:
    async with asyncio.timeout(30):
        while not holds((await caller.get("/v1/stats"))[1]):  # noqa: ASYNC110 - it is another thread's
            await asyncio.sleep(0.01)


async def test_a_full_queue_is_told_with_when_to_come_back(
    engine: Engine, pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._scheduler.waiting, "_most", 0)  # type: ignore[attr-defined]
    async with a_caller(engine, pictures, ServerSettings()) as caller:
        body = json.dumps({"question": PERSON}).encode()
        async with caller.session.post(f"{caller.url}/v1/query", data=body) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "1")


def huge_png(side_px: int = 16_000) -> bytes:
    """As its header says; there is nothing behind it."""
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def truncated_jpeg() -> bytes:
    whole = BytesIO()
    Image.effect_noise((320, 240), 90).convert("RGB").save(whole, "JPEG")
    return whole.getvalue()[:5000]


BAD: dict[str, tuple[str, Any, int, str]] = {
    "no JSON": ("/v1/query", b"{", 400, "no JSON"),
    "too deep": ("/v1/query", b"[" * 100_000, 400, "no JSON"),
    "no object": ("/v1/query", [1], 400, "JSON object"),
    "no question": ("/v1/query", {}, 400, "question: a text is needed, not None"),
    "empty question": ("/v1/query", {"question": "  "}, 400, "question"),
    "a question that is none": ("/v1/query", {"question": 7}, 400, "question"),
    "1 MB of question": ("/v1/query", {"question": "x" * 2**20}, 400, "1048576 characters"),
    "more than the model reads": ("/v1/query", {"question": "why? " * 2000}, 400, "the model has room for"),
    "no picture": ("/v1/detect", {"object": "car"}, 400, "a picture is needed"),
    "a picture elsewhere": (
        "/v1/query",
        {"question": "?", "image_url": "http://host/a.jpg"},
        400,
        "nothing is fetched",
    ),
    "a file": ("/v1/query", {"question": "?", "image_url": "file:///etc/passwd"}, 400, "nothing is fetched"),
    "no base64": ("/v1/query", {"question": "?", "image_url": "data:image/png;base64,%%%"}, 400, "no base64"),
    "no picture at all": ("/v1/query", {"question": "?", "image_url": as_url(b"hello")}, 400, "none of JPEG"),
    "an empty one": ("/v1/query", {"question": "?", "image_url": as_url(b"")}, 400, "it is empty"),
    "a huge one": ("/v1/query", {"question": "?", "image_url": as_url(huge_png())}, 413, "at most 50 million"),
    "a large one": ("/v1/query", {"question": "?", "image_url": as_url(huge_png(8000))}, 413, "8000 x 8000 pixels"),
    "half of one": ("/v1/query", {"question": "?", "image_url": as_url(truncated_jpeg())}, 400, "can't be read"),
    "an unknown skill": ("/v1/segment", {"object": "car"}, 404, "Not Found"),
    "a stream": ("/v1/query", {"question": "?", "stream": True}, 400, "stream"),
    "a length that is none": ("/v1/caption", {"length": "huge"}, 400, "short, normal or long"),
    "objects without end": ("/v1/detect", {"object": "car", "settings": {"max_objects": 10**9}}, 400, "max_objects"),
    "settings that are none": ("/v1/query", {"question": "?", "settings": [1]}, 400, "settings"),
    "a temperature below zero": ("/v1/query", {"question": "?", "settings": {"temperature": -1}}, 400, "temperature"),
    "one choice": ("/v1/query", {"question": "?", "choices": ["yes"]}, 400, "choices"),
    "choices that are the same": ("/v1/query", {"question": "?", "choices": ["yes", "yes"]}, 400, "choices"),
    "places outside": ("/v1/query", {"question": "?", "spatial_refs": [[2, 0]]}, 400, "spatial_refs"),
    "places without a picture": ("/v1/query", {"question": "?", "spatial_refs": [[0.5, 0.5]]}, 400, "spatial_refs"),
    "a timeout that is none": ("/v1/query", {"question": "?", "timeout": 0}, 400, "timeout"),
    "a priority that is none": ("/v1/query", {"question": "?", "priority": "high"}, 400, "priority"),
}


@pytest.mark.parametrize("what", BAD)
async def test_what_is_wrong_is_said_and_nothing_else_breaks(caller: Caller, what: str) -> None:
    path, body, status, words = BAD[what]
    if path == "/v1/caption":
        body |= {"image_url": caller.picture}
    told, answer = await caller.post(path, body)
    assert told == status, answer
    assert words in answer["error"]["message"]
    assert (await caller.ask())["answer"] == case("query", question=PERSON)["text"]


async def test_a_body_that_is_too_large_is_refused(engine: Engine, pictures: dict[str, bytes]) -> None:
    async with a_caller(engine, pictures, ServerSettings(max_body_mb=1)) as caller:
        status, answer = await caller.post("/v1/query", b" " * (2 * 2**20))
        assert status == 413, answer


async def test_while_it_loads_it_says_so(pictures: dict[str, bytes]) -> None:
    async with a_caller(None, pictures, ServerSettings()) as caller:
        for answered in (await caller.post("/v1/query", {"question": "?"}), await caller.get("/health")):
            assert answered[0] == 503
            assert "being loaded" in answered[1]["error"]["message"]
        assert (await caller.get("/v1/stats"))[1]["status"] == "loading"


async def test_without_the_token_nobody_is_answered_but_about_health(
    engine: Engine, pictures: dict[str, bytes]
) -> None:
    async with a_caller(engine, pictures, ServerSettings(), token="open sesame") as caller:
        body = {"question": PERSON}
        for headers in ({}, {"Authorization": "Bearer sesame"}, {"Authorization": "Bearer "}):
            status, answer = await caller.post("/v1/query", body, headers=headers)
            assert (status, "sesame" in str(answer)) == (401, False)
        for headers in ({"Authorization": "Bearer open sesame"}, {"X-Moondream-Auth": "open sesame"}):
            assert (await caller.post("/v1/query", body, headers=headers))[0] == 200
        assert (await caller.get("/health"))[0] == 200
        assert (await caller.get("/v1/stats"))[0] == 401


async def test_it_tells_about_itself(caller: Caller) -> None:
    await caller.ask()
    assert (await caller.get("/health"))[1]["status"] == "ok"
    assert (await caller.get("/v1/models"))[1]["data"][0]["id"] == "small"
    status, page = await caller.get("/metrics")
    assert status == 200
    assert 'lva_model_requests_total{path="/v1/query",status="200"} 1.0' in page
    assert "lva_model_pictures_encoded 1.0" in page


async def test_a_bug_is_told_as_one_and_the_next_request_is_answered(
    caller: Caller, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crashes(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(type(engine), "query", crashes)
        status, answer = await caller.post("/v1/query", {"question": "?"})
    assert (status, "secret" in str(answer)) == (500, False)
    assert (await caller.ask())["finish_reason"] == "stop"


async def test_many_callers_at_random_each_hear_their_own_answer(caller: Caller) -> None:
    cases = [one for one in INDEX["query"] if one["image"] == "a_640x360"] * 4
    told = await asyncio.gather(*(caller.ask(one["question"]) for one in cases))
    assert [one["answer"] for one in told] == [one["text"] for one in cases]
