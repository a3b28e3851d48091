"""The last resort: what the detector saw, for the questions that it can answer, marked as degraded.

A detector knows what it looks for and nothing else. So an absence is told only for a label that it could have
seen.
"""

from collections.abc import Sequence

from providers.answers import unknown
from providers.asking import Asking
from providers.base import (
    Analysis,
    Answer,
    AnswerStatus,
    ConfidenceSource,
    Detection,
    Outcome,
    Point,
    Question,
    QuestionKind,
    Request,
    Value,
)
from providers.words import stems


class Detections:
    """Answers at once, from what travels with the request."""

    def __init__(self, name: str = "detections") -> None:
        self.name = name

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        return [_analyze(self.name, request) for request in requests]

    async def probe(self) -> str:
        return "what the detector saw"


def _analyze(name: str, request: Request) -> Analysis:
    answers = tuple(_answer(question, request) for question in request.questions)
    return Asking(request).done(name, answers, model=request.detector, model_version=request.detector, degraded=True)


def _answer(question: Question, request: Request) -> Answer:
    things = question.choices if question.kind is QuestionKind.LABELS else (question.object,)
    known = {stems(label) for label in request.detector_labels}
    if not all(thing and stems(thing) in known for thing in things) or not things:
        return unknown(question)
    seen = [one for one in request.detections if stems(one.label) in {stems(thing) for thing in things}]
    value = _value(question, seen)
    if value is None:
        return unknown(question)
    confidence = min((one.confidence for one in seen), default=None)
    source = ConfidenceSource.NONE if confidence is None else ConfidenceSource.DETECTOR
    return Answer(question, value, AnswerStatus.OK, confidence, source)


def _value(question: Question, seen: Sequence[Detection]) -> Value:
    match question.kind:
        case QuestionKind.BOOLEAN:
            return bool(seen)
        case QuestionKind.COUNT:
            return len(seen)
        case QuestionKind.BOXES:
            return tuple(one.box for one in seen)
        case QuestionKind.POINTS:
            return tuple(
                Point((one.box.x_min + one.box.x_max) / 2, (one.box.y_min + one.box.y_max) / 2) for one in seen
            )
        case QuestionKind.LABELS:
            here = {stems(one.label) for one in seen}
            return tuple(choice for choice in question.choices if stems(choice) in here)
        case _:
            return None
