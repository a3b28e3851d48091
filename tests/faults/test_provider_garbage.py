"""Case 40: whatever stands in the place of an answer, nothing is made of it, and nobody stumbles over it."""

import asyncio
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.rows import analysis_row, to_json
from providers.base import RAW_LIMIT_BYTES, Analysis, AnswerStatus, Failure, Outcome, ProviderError
from tests.faults.dialects import DIALECTS, asking
from tests.faults.provider import Asked, FakeProvider, Manner, Reply, about_itself, good, said
from tests.providers.samples import FIRE, PEOPLE, SCENE, THINGS, VEHICLE, a_request, analysis, error
from tests.providers.test_malformed import ALL, MENDED, REFUSED, any_json, any_text, is_sound

NOT_AN_ANSWER = {
    Failure.INVALID_OUTPUT,
    Failure.EMPTY,
    Failure.TRUNCATED,
    Failure.SERVER_ERROR,
    Failure.NOT_FOUND,
    Failure.UNAVAILABLE,
    Failure.BAD_REQUEST,
}
"""What garbage is called. Never a value, and never a fault of the picture's own size or of a key."""

RAW = {
    "html": b"<html><body>502 Bad Gateway</body></html>",
    "nothing": b"",
    "empty object": b"{}",
    "null": b"null",
    "list": b"[]",
    "string": b'"yes"',
    "cut off": b'{"answer": "yes", "choices": [{"mess',
    "not a number": b'{"answer": NaN}',
    "bad utf-8": b'{"answer": "\xff\xfe\xfa"}',
    "ten megabytes": b'{"answer": "' + b"y" * 10_000_000 + b'"}',
    "deep": b'{"answer": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "long number": b'{"answer": ' + b"9" * 100_000 + b"}",
    "two objects": b'{"answer": "yes"}{"answer": "no"}',
    "the same key twice": b'{"answer": "yes", "answer": "no", "choices": [], "choices": []}',
    "lines of an error": b'{"error": "model runner has unexpectedly stopped"}\n{"done": true}\n',
    "error under 200": b'{"error": {"message": "CUDA out of memory", "type": "server_error"}}',
    "nulls": b"\x00" * 1000,
    "answers of no kind": b'{"answer": {"yes": 1}, "choices": {"message": 1}, "message": ["yes"], "objects": 3}',
    "no answers": b'{"answer": null, "choices": [], "message": {}, "objects": null}',
    "an answer without words": b'{"answer": "  \\n", "message": {"content": ""}, "choices": [{"message": {}}]}',
    "another shape": b'{"result": "yes", "confidence": 0.9}',
}


def is_told(outcome: Outcome) -> bool:
    """An outcome that keeps every promise: fit for a row, and no value that is not of its kind."""
    if isinstance(outcome, ProviderError):
        told = str(outcome)
        return len(outcome.message.encode()) <= RAW_LIMIT_BYTES and (told.isprintable() or "\n" in told or "\t" in told)
    json.loads(to_json(analysis_row(outcome)))
    return all(is_sound(answer) for answer in outcome.answers)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("flaw", RAW)
async def test_a_reply_that_is_garbage_is_a_failure_of_the_server(flaw: str, dialect: str) -> None:
    """Case 40."""
    async with (
        FakeProvider(lambda _asked: Reply(RAW[flaw])) as server,
        asking(server, dialect, max_attempts=1) as chain,
    ):
        [outcome] = await chain.analyze([a_request(FIRE, PEOPLE, VEHICLE)])
    assert error(outcome).failure in NOT_AN_ANSWER
    assert is_told(outcome)


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
@pytest.mark.parametrize("flaw", REFUSED)
async def test_words_that_are_no_answer_are_a_failure_and_are_not_asked_for_again(flaw: str, dialect: str) -> None:
    """Case 40. The corpus of everything that models were seen to say, in the place of the JSON that was wanted."""
    async with FakeProvider(lambda asked: said(asked, REFUSED[flaw])) as server, asking(server, dialect) as chain:
        [outcome] = await chain.analyze([a_request(*ALL)])
    assert error(outcome).failure in {Failure.INVALID_OUTPUT, Failure.EMPTY, Failure.SERVER_ERROR}
    assert is_told(outcome)
    assert len(server.pictures) == 1


@pytest.mark.parametrize("dialect", ["openai", "ollama"])
@pytest.mark.parametrize("flaw", MENDED)
async def test_a_known_flaw_is_mended_once_and_nobody_is_asked_again(flaw: str, dialect: str) -> None:
    """Case 40."""
    async with FakeProvider(lambda asked: said(asked, MENDED[flaw])) as server, asking(server, dialect) as chain:
        [outcome] = await chain.analyze([a_request(*ALL)])
    assert [answer.status for answer in analysis(outcome).answers] == [AnswerStatus.OK] * len(ALL)
    assert len(server.pictures) == 1


@pytest.mark.parametrize("flaw", [*REFUSED, *MENDED])
async def test_words_that_are_no_answer_to_a_plain_question_have_no_value(flaw: str) -> None:
    """Case 40. Moondream answers each question by itself, in words: JSON is no answer there, whatever it says."""
    words = (REFUSED | MENDED)[flaw]
    async with FakeProvider(lambda asked: said(asked, words)) as server, asking(server, "moondream") as chain:
        [outcome] = await chain.analyze([a_request(FIRE, VEHICLE, THINGS)])
    assert is_told(outcome)
    if isinstance(outcome, Analysis):
        assert all(answer.value is None for answer in outcome.answers)


class Bench:
    """A server that answers anything, and a loop to ask it in: one of each for all examples."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._server = self._runner.run(self._start())

    async def _start(self) -> FakeProvider:
        server = FakeProvider(good)
        server.knows_itself = False
        return await server.start()

    def ask(self, dialect: str, reply: Any) -> Outcome:
        """`reply`: bytes, or what is made JSON of, or a function of the request."""
        self._server.script = lambda asked: made(reply(asked) if callable(reply) else reply)
        return self._runner.run(self._ask(dialect))

    async def _ask(self, dialect: str) -> Outcome:
        async with asking(self._server, dialect, max_attempts=1) as chain:
            [outcome] = await chain.analyze([a_request(*ALL)])
            return outcome

    def close(self) -> None:
        self._runner.run(self._server.stop())
        self._runner.close()


def made(reply: Any) -> Reply:
    return Reply(reply if isinstance(reply, bytes) else json.dumps(reply).encode())


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@given(content=st.binary(max_size=400), dialect=st.sampled_from(DIALECTS))
@settings(max_examples=60)
def test_any_bytes_are_a_failure(bench: Bench, content: bytes, dialect: str) -> None:
    """Case 40."""
    outcome = bench.ask(dialect, content)
    assert error(outcome).failure in NOT_AN_ANSWER
    assert is_told(outcome)


@given(words=any_text, dialect=st.sampled_from(DIALECTS))
@settings(max_examples=60)
def test_any_words_of_a_model_are_a_sound_answer_or_a_failure(bench: Bench, words: str, dialect: str) -> None:
    """Case 40."""
    outcome = bench.ask(dialect, lambda asked: (about_itself(asked) or said(asked, words)).content)
    assert is_told(outcome)


@given(data=st.data(), dialect=st.sampled_from(DIALECTS))
@settings(max_examples=100)
def test_a_good_reply_with_anything_in_one_place_is_told_soundly(
    bench: Bench, data: st.DataObject, dialect: str
) -> None:
    """Case 40. Of every reply of the dialect, what it tells of its models among them."""

    def reply(asked: Asked) -> Any:
        whole = json.loads((about_itself(asked) or good(asked)).content)
        return with_anything_in_one_place(whole, data)

    assert is_told(bench.ask(dialect, reply))


def with_anything_in_one_place(reply: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    changed = copy.deepcopy(reply)
    place: Any = changed
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
            place[key] = data.draw(any_json)
            return changed
        place = place[key]


async def test_a_wrong_length_a_packed_body_and_a_foreign_model_are_told_as_they_are() -> None:
    """Case 40."""
    async with FakeProvider(good) as server, asking(server, "openai", max_attempts=1) as chain:
        server.script = lambda asked: Reply(
            good(asked).content, headers={"Content-Length": "999999"}, manner=Manner.CUT
        )
        [cut] = await chain.analyze([a_request(PEOPLE)])
        server.script = lambda asked: Reply(good(asked).content, headers={"Content-Encoding": "gzip"})
        [packed] = await chain.analyze([a_request(PEOPLE)])
        server.script = good
        [foreign] = await chain.analyze([a_request(SCENE)])
    assert [error(outcome).failure for outcome in (cut, packed)] == [Failure.SERVER_ERROR] * 2
    assert analysis(foreign).model_version == "fake"
