import json
import math
from dataclasses import replace
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.clock import Moment
from pipeline.rows import analysis_row, event_from_row, event_row, to_json
from providers.base import Answer, AnswerStatus, Box, Point, Question, QuestionKind
from tests.pipeline.makers import NOW, an_analysis, an_event

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=4),
    max_leaves=20,
)


def test_an_event_comes_back_from_its_row_as_it_was() -> None:
    event = an_event()
    assert event_from_row(json.loads(to_json(event_row(event, Moment(NOW)))), event.jpeg) == event


def test_an_analysis_has_its_fixed_columns_and_every_answer() -> None:
    row = analysis_row(an_analysis(an_event().id, count=3))
    assert row["people_count"] == 3
    assert row["scene_description"] is None
    assert row["answers"]["people_count"]["value"] == 3


def test_boxes_and_points_are_objects_with_named_sides() -> None:
    event = an_event()
    analysis = an_analysis(event.id)
    boxes = Question("boxes", QuestionKind.BOXES, "", object="person")
    points = Question("points", QuestionKind.POINTS, "", object="person")
    shapes = (
        Answer(boxes, (Box(0, 0.1, 0.2, 0.3),), AnswerStatus.OK),
        Answer(points, (Point(0.5, 0.6),), AnswerStatus.OK),
    )
    answers = analysis_row(replace(analysis, answers=shapes))["answers"]
    assert answers["boxes"]["value"] == [{"x_min": 0, "y_min": 0.1, "x_max": 0.2, "y_max": 0.3}]
    assert answers["points"]["value"] == [{"x": 0.5, "y": 0.6}]


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        event_row(an_event(captured_at=datetime(2026, 1, 1)), Moment(NOW))  # noqa: DTZ001 - that is the point


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_whatever_a_model_says_becomes_json_that_postgres_takes(row: dict[str, object]) -> None:
    text = to_json(row)
    text.encode("utf-8")
    assert "\0" not in "".join(_texts(json.loads(text)))
    assert all(math.isfinite(number) for number in _numbers(json.loads(text)))


@example("\\u0000")  # six harmless characters
@given(st.text())
def test_a_nul_is_all_that_is_taken_out_of_a_text(text: str) -> None:
    assert json.loads(to_json({"said": text}))["said"] == text.replace("\0", "\ufffd")


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.items() for each in item for text in _texts(each)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def _numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, float) else []
