"""Everything that models and servers were seen to answer in place of an answer: none of it becomes a
value."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from providers.answers import MAX_COUNT, MAX_TEXT, answer_from_text
from providers.base import (
    Answer,
    AnswerStatus,
    Box,
    Failure,
    Point,
    ProviderError,
    Question,
    QuestionKind,
)
from providers.schema import answer_from_json, answers_from_json, schema_of
from tests.providers.samples import A_BOX, CAR_POINTS, FIRE, PEOPLE, PERSON_BOXES, SCENE, THINGS, VEHICLE

ALL = (FIRE, PEOPLE, VEHICLE, THINGS, SCENE, PERSON_BOXES, CAR_POINTS)
GOOD: dict[str, Any] = {
    "fire": False,
    "people": 1,
    "vehicle": "car",
    "things": ["person"],
    "scene": "A person by a car.",
    "where": [A_BOX],
    "cars": [{"x": 0.5, "y": 0.5}],
}
JSON = json.dumps(GOOD)

MENDED = {
    "fence": f"```json\n{JSON}\n```",
    "prose around": f"Here is the answer:\n{JSON}\nHope this helps!",
    "trailing comma": JSON[:-1] + ",}",
    "python literals": JSON.replace("false", "False"),
    "single quotes": JSON.replace('"', "'"),
    "comments": "{ // the answer\n" + JSON[1:],
    "wrong enum case": JSON.replace('"car"', '"CAR"'),
    "number as string": JSON.replace('"people": 1', '"people": "1"'),
    "spaces": "\n\n  " + JSON + "\n" * 100,
}

REFUSED = {
    "bare list": '["person"]',
    "dropped bracket": JSON[:-1],
    "cut off": JSON[: len(JSON) // 2],
    "two arrays": "[1][2]",
    "field missing": json.dumps({k: v for k, v in GOOD.items() if k != "fire"}),
    "field too much": json.dumps(GOOD | {"extra": 1}),
    "duplicate keys": JSON[:-1] + ', "fire": true}',
    "two answers": JSON + JSON,
    "NaN": JSON.replace("0.1", "NaN"),
    "Infinity": JSON.replace("0.1", "-Infinity"),
    "deep": "[" * 10_000 + "]" * 10_000,
    "deep object": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "huge": '{"fire": "' + "x" * 10_000_000 + '"}',
    "one token": "the",
    "endless whitespace": " \n" * 5000 + "{",
    "bounding box": "[0.1, 0.2, 0.3, 0.4]",
    "apology": "I don't see the image, please paste it.",
    "refusal": "I can't assist with that.",
    "prompt echoed": "- fire: Is there a fire? (true or false)",
    "schema echoed": json.dumps(schema_of(ALL)),
    "html": "<html><body>502 Bad Gateway</body></html>",
    "nothing": "{}",
    "null": "null",
    "another shape": '{"category": "person", "confidence": 0.9}',
}

WRONG_FIELDS: list[tuple[Question, Any]] = [
    (FIRE, "maybe"), (FIRE, 1), (FIRE, 0), (FIRE, []), (FIRE, {}), (FIRE, "no fire"),
    (PEOPLE, -1), (PEOPLE, 1.5), (PEOPLE, True), (PEOPLE, "two or three"), (PEOPLE, [1]),
    (PEOPLE, 10**9), (PEOPLE, ""),
    (VEHICLE, "bicycle"), (VEHICLE, ""), (VEHICLE, 3), (VEHICLE, ["car"]),
    (THINGS, "person"), (THINGS, ["tree"]), (THINGS, [1]), (THINGS, {"person": 1}),
    (SCENE, ""), (SCENE, "\u0000"), (SCENE, 5), (SCENE, "[0.1, 0.2]"),
    (SCENE, "I'm sorry, please provide the picture"),
    (PERSON_BOXES, [{"x_min": 10, "y_min": 20, "x_max": 300, "y_max": 400}]),
    (PERSON_BOXES, [{"x_min": 0.9, "y_min": 0.1, "x_max": 0.2, "y_max": 0.4}]),
    (PERSON_BOXES, [[0.1, 0.2, 0.3, 0.4]]), (PERSON_BOXES, [{"x_min": 0.1}]), (PERSON_BOXES, A_BOX),
    (PERSON_BOXES, [A_BOX | {"x_min": "0.1"}]), (PERSON_BOXES, [A_BOX | {"x_min": True}]),
    (PERSON_BOXES, [A_BOX] * 151),
    (PERSON_BOXES, [A_BOX | {"x_max": float("inf")}]), (PERSON_BOXES, [A_BOX | {"x_max": float("nan")}]),
    (CAR_POINTS, [{"x": 500, "y": 20}]), (CAR_POINTS, [[0.1, 0.2]]), (CAR_POINTS, [{"x": None, "y": 0.1}]),
]  # fmt: skip


@pytest.mark.parametrize("flaw", MENDED)
def test_known_flaws_are_mended_once(flaw: str) -> None:
    answers = answers_from_json(ALL, MENDED[flaw])
    assert [answer.status for answer in answers] == [AnswerStatus.OK] * len(ALL)
    assert [answer.value for answer in answers[:4]] == [False, 1, "car", ("person",)]


@pytest.mark.parametrize("flaw", REFUSED)
def test_all_else_is_invalid_output(flaw: str) -> None:
    with pytest.raises(ProviderError) as raised:
        answers_from_json(ALL, REFUSED[flaw])
    assert raised.value.failure is Failure.INVALID_OUTPUT
    assert len(raised.value.message) < 2000


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["/*", "```", "``` ", '"', "'", "{", ", ", "\\", "// ", "aA9", "\n"])
def test_a_mebibyte_of_anything_is_refused_in_no_time(piece: str) -> None:
    text = "{" + piece * ((1 << 20) // len(piece))
    for long in (text, text[: 16 * 1024]):
        with pytest.raises(ProviderError):
            answers_from_json(ALL, long)
        for question in ALL:
            assert is_sound(answer_from_text(question, long[1:]))


@pytest.mark.parametrize("text", ["", "   \n\t "])
def test_no_text_is_empty(text: str) -> None:
    with pytest.raises(ProviderError) as raised:
        answers_from_json(ALL, text)
    assert raised.value.failure is Failure.EMPTY


@pytest.mark.parametrize(("question", "value"), WRONG_FIELDS)
def test_a_value_of_another_kind_is_an_error_of_that_field(question: Question, value: Any) -> None:
    answer = answer_from_json(question, value)
    assert (answer.value, answer.status) == (None, AnswerStatus.ERROR)


def test_one_bad_field_leaves_the_others_standing() -> None:
    answers = answers_from_json((FIRE, PEOPLE), '{"fire": true, "people": "many"}')
    assert [answer.status for answer in answers] == [AnswerStatus.OK, AnswerStatus.ERROR]


def test_a_bare_list_answers_a_single_question_for_a_list() -> None:
    [answer] = answers_from_json((THINGS,), '["dog", "dog", "car"]')
    assert answer.value == ("car", "dog")


def test_a_box_list_that_disagrees_with_the_count_is_an_error() -> None:
    people, where = answers_from_json((PEOPLE, PERSON_BOXES), json.dumps({"people": 3, "where": [A_BOX]}))
    assert (people.value, where.status) == (3, AnswerStatus.ERROR)


def test_a_lone_surrogate_does_no_harm() -> None:
    [answer] = answers_from_json((SCENE,), '{"scene": "A \\ud800 yard"}')
    assert str(answer.value).encode() == b"A ? yard"


def test_the_schema_is_small_and_has_no_titles() -> None:
    schema = schema_of(ALL)
    assert schema["required"] == [question.name for question in ALL]
    assert schema["properties"]["people"] == {"type": ["integer", "null"]}
    assert "title" not in json.dumps(schema)
    assert "description" not in json.dumps(schema)


def is_sound(answer: Answer) -> bool:
    """Whether an answer keeps its promise: a value of its kind if ok, else none at all."""
    value, question = answer.value, answer.question
    answer.raw.encode("utf-8")
    if answer.status is not AnswerStatus.OK:
        return value is None
    match question.kind:
        case QuestionKind.BOOLEAN:
            return isinstance(value, bool)
        case QuestionKind.COUNT:
            return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT
        case QuestionKind.CHOICE:
            return value in question.choices
        case QuestionKind.LABELS:
            return isinstance(value, tuple) and set(value) <= set(question.choices)
        case QuestionKind.TEXT:
            return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.encode() != b""
        case QuestionKind.BOXES:
            return isinstance(value, tuple) and all(is_box(one) for one in value)
        case QuestionKind.POINTS:
            return isinstance(value, tuple) and all(isinstance(one, Point) for one in value)


def is_box(one: object) -> bool:
    return isinstance(one, Box) and 0 <= one.x_min <= one.x_max <= 1 and 0 <= one.y_min <= one.y_max <= 1


pieces = st.sampled_from([*MENDED.values(), *(text for text in REFUSED.values() if len(text) < 10_000)])
any_text = st.one_of(st.text(), pieces, st.tuples(pieces, st.text(), pieces).map("".join))
any_key = st.sampled_from(["x_min", "y_min", "x_max", "y_max", "x", "y"]) | st.text()
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["car", "yes"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_key, inner, max_size=5),
    max_leaves=8,
)


@given(any_text, st.sampled_from(ALL))
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_sound_answer(text: str, question: Question) -> None:
    assert is_sound(answer_from_text(question, text))


@given(any_json, st.sampled_from(ALL))
@settings(deadline=None, max_examples=300)
def test_any_value_is_a_sound_answer(value: Any, question: Question) -> None:
    assert is_sound(answer_from_json(question, value))


@given(any_text, st.integers(0, 2000))
@settings(deadline=None, max_examples=300)
def test_any_answer_to_a_schema_is_sound_or_a_declared_failure(text: str, cut: int) -> None:
    outcome = answers_or_failure(text[:cut])
    if isinstance(outcome, Failure):
        assert outcome in (Failure.INVALID_OUTPUT, Failure.EMPTY)
    else:
        assert [answer.question for answer in outcome] == list(ALL)
        assert all(is_sound(answer) for answer in outcome)
        assert any(answer.status is not AnswerStatus.ERROR for answer in outcome)


def answers_or_failure(text: str) -> tuple[Answer, ...] | Failure:
    try:
        return answers_from_json(ALL, text)
    except ProviderError as error:
        return error.failure
