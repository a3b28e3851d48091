"""Requests and questions that tests ask."""

from dataclasses import replace
from uuid import UUID, uuid4

from providers.asking import PROBE_JPEG
from providers.base import (
    Analysis,
    Box,
    Detection,
    Failure,
    Outcome,
    ProviderError,
    Question,
    QuestionKind,
    Request,
)

PEOPLE = Question("people", QuestionKind.COUNT, "How many people are visible?", object="person")
PERSON_BOXES = Question("where", QuestionKind.BOXES, "Where is each person?", object="person")
CAR_POINTS = Question("cars", QuestionKind.POINTS, "Where is each car?", object="car")
FIRE = Question("fire", QuestionKind.BOOLEAN, "Is there a fire?")
VEHICLE = Question("vehicle", QuestionKind.CHOICE, "What is it?", ("car", "truck", "none"))
THINGS = Question("things", QuestionKind.LABELS, "What is visible?", ("person", "car", "dog"))
SCENE = Question("scene", QuestionKind.TEXT, "Describe the scene.")
CAPTION = Question("caption", QuestionKind.TEXT, "")

A_BOX = {"x_min": 0.1, "y_min": 0.2, "x_max": 0.3, "y_max": 0.4}


def a_request(*questions: Question, event_id: UUID | None = None) -> Request:
    return Request(event_id or uuid4(), PROBE_JPEG, questions or (FIRE,))


def with_detections(request: Request, *seen: tuple[str, float], labels: tuple[str, ...] = ()) -> Request:
    detections = tuple(Detection(label, confidence, Box(0.1, 0.2, 0.3, 0.6)) for label, confidence in seen)
    known = frozenset(labels) | {label for label, _ in seen}
    return replace(request, detections=detections, detector_labels=known, detector="yolo-test")


def analysis(outcome: Outcome) -> Analysis:
    assert isinstance(outcome, Analysis), outcome
    return outcome


def error(outcome: Outcome) -> ProviderError:
    assert isinstance(outcome, ProviderError), outcome
    return outcome


def failure(outcome: Outcome) -> Failure:
    return error(outcome).failure


def values(outcome: Outcome) -> dict[str, object]:
    return {answer.question.name: answer.value for answer in analysis(outcome).answers}


def statuses(outcome: Outcome) -> dict[str, str]:
    return {answer.question.name: str(answer.status) for answer in analysis(outcome).answers}
