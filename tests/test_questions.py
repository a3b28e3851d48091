"""What is asked of which camera and event, and which columns the answers fill."""

from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from pipeline.events import EventKind
from pipeline.questions import (
    COMMON_OBJECTS,
    DEFAULT_QUESTIONS,
    QuestionSettings,
    fixed_columns,
    questions_for,
)
from providers.answers import error, ok, unknown
from providers.asking import PROBE_JPEG, Asking
from providers.base import Analysis, Answer, Box, Question, QuestionKind, Request

APPEARED = EventKind.OBJECT_APPEARED


def settings(**table: Any) -> QuestionSettings:
    return QuestionSettings.model_validate(table)


def names(questions: tuple[Question, ...]) -> list[str]:
    return [question.name for question in questions]


def test_no_configuration_asks_the_defaults_of_what_comes_into_view() -> None:
    assert questions_for([], "yard", APPEARED) == DEFAULT_QUESTIONS
    assert questions_for([], "yard", EventKind.CROWD_GATHERING) == DEFAULT_QUESTIONS
    assert questions_for([], "yard", EventKind.OBJECT_LEFT) == ()
    assert questions_for([], "yard", EventKind.CAMERA_DOWN) == ()


def test_configured_questions_replace_the_defaults_for_their_cameras_and_events() -> None:
    asked = [
        settings(name="helmet", kind="boolean", ask="Does everyone wear a helmet?", cameras=["site"]),
        settings(name="scene", kind="text"),
        settings(name="tidy", kind="boolean", ask="Is it tidy?", events=["object_left"]),
    ]
    assert names(questions_for(asked, "site", APPEARED)) == ["helmet", "scene"]
    assert names(questions_for(asked, "yard", APPEARED)) == ["scene"]
    assert names(questions_for(asked, "yard", EventKind.OBJECT_LEFT)) == ["tidy"]


def test_a_question_without_words_gets_plain_ones() -> None:
    assert settings(name="cars", kind="count", object="car").question.wording == "How many of this are visible: car?"
    assert settings(name="caption", kind="text").question.wording == ""


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"name": "a", "kind": "choice", "ask": "?", "choices": ["one"]}, "at least two choices"),
        ({"name": "a", "kind": "labels"}, "needs choices"),
        ({"name": "a", "kind": "count"}, "needs an object"),
        ({"name": "a", "kind": "boxes"}, "needs an object"),
        ({"name": "a", "kind": "points"}, "needs an object"),
        ({"name": "a", "kind": "boolean"}, "needs ask"),
        ({"name": "a", "kind": "text", "choices": ["b", "c"]}, "no use for choices"),
        ({"name": "Not A Name", "kind": "text"}, "pattern"),
        ({"name": "9", "kind": "text"}, "pattern"),
        ({"name": "a", "kind": "guess"}, "'boolean', 'count'"),
        ({"name": "a", "kind": "labels", "choices": ["car", "Cars"]}, "the same word"),
        ({"name": "a", "kind": "labels", "choices": ["car", ""]}, "at least 1 character"),
        ({"name": "people_count", "kind": "text"}, "column that holds count"),
        ({"name": "a", "kind": "text", "events": ["party"]}, "object_appeared"),
        ({"name": "a", "kind": "text", "prompt": "?"}, "Extra inputs"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_a_reason(table: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(**table)


def analysis(*answers: Answer) -> Analysis:
    request = Request(uuid4(), PROBE_JPEG, tuple(answer.question for answer in answers))
    return Asking(request).done("fake", answers, model="m", model_version="m1")


def default(name: str) -> Question:
    return next(question for question in DEFAULT_QUESTIONS if question.name == name)


def test_the_fixed_columns_come_from_the_answers_of_their_names() -> None:
    columns = fixed_columns(
        analysis(
            ok(default("people_count"), 2, "2"),
            ok(default("objects"), ("person", "car"), ""),
            ok(default("spatial_coordinates"), (Box(0.1, 0.2, 0.3, 0.4),), ""),
            ok(default("scene_description"), "Two people by a car.", ""),
        )
    )
    assert columns == {
        "people_count": 2,
        "objects": ["person", "car"],
        "spatial_coordinates": [{"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}],
        "scene_description": "Two people by a car.",
        "confidence_scores": None,
    }


def test_a_column_that_nobody_answered_is_none_and_never_zero() -> None:
    columns = fixed_columns(analysis(unknown(default("people_count")), error(default("objects"), "?")))
    assert set(columns.values()) == {None}


def test_any_count_of_people_fills_people_count() -> None:
    workers = Question("workers", QuestionKind.COUNT, "How many workers?", object="people")
    assert fixed_columns(analysis(ok(workers, 4, "4")))["people_count"] == 4


def test_only_told_confidences_are_scores() -> None:
    told = Answer(default("hazard"), True, ok(default("hazard"), True, "").status, confidence=0.8)
    assert fixed_columns(analysis(told, ok(default("people_count"), 1, "")))["confidence_scores"] == {"hazard": 0.8}


def test_the_default_objects_can_all_be_seen_by_the_usual_detector() -> None:
    assert {"person", "car", "dog"} <= set(COMMON_OBJECTS)
    assert default("objects").choices == COMMON_OBJECTS
