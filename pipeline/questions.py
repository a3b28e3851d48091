"""What is asked about a picture: the `[[questions]]` sections, the defaults, and the columns that answers
fill.

Configured questions replace the defaults as soon as there is one.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from pipeline.events import EventKind
from providers.base import Analysis, Answer, AnswerStatus, Question, QuestionKind, as_json
from providers.settings import Section
from providers.words import stems

KINDS_WITH_PICTURE = (EventKind.OBJECT_APPEARED, EventKind.CROWD_GATHERING)
"""Asked about unless a question names its events: what has just come into view."""

KINDS_WITHOUT_PICTURE = (EventKind.CAMERA_DOWN, EventKind.CAMERA_BACK)

COLUMN_KINDS = {
    "people_count": QuestionKind.COUNT,
    "objects": QuestionKind.LABELS,
    "spatial_coordinates": QuestionKind.BOXES,
    "scene_description": QuestionKind.TEXT,
}
"""Names whose answers are columns of their own, and the kind that each column holds."""

COMMON_OBJECTS = (
    "person", "bicycle", "car", "motorcycle", "bus", "truck", "cat", "dog", "horse", "backpack", "umbrella",
    "handbag", "suitcase", "knife",
)  # fmt: skip
"""What people ask cameras about. All are classes of COCO, so that a detector alone can answer as well."""

NAME = r"^[a-z_][a-z0-9_]{0,62}$"
MAX_CHOICES = 50

Words = Annotated[str, Field(min_length=1, max_length=100)]


class QuestionSettings(Section):
    """One question, for all cameras and what comes into view, or for those that are named."""

    name: str = Field(pattern=NAME, description="Key of the answer in rows")
    kind: QuestionKind = Field(description="boolean, count, choice, labels, text, boxes or points")
    ask: str = Field("", max_length=1000, description="The sentence that a model reads; empty: made from the rest")
    choices: tuple[Words, ...] = Field((), max_length=MAX_CHOICES, description="Of a choice or labels question")
    object: str = Field("", max_length=100, description='What to count, box or point at: "person"')
    cameras: tuple[str, ...] = Field((), description="Only these; empty: all")
    events: tuple[EventKind, ...] = Field((), description="Only these; empty: object_appeared and crowd_gathering")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        _require_parts(self)
        _require_column_kind(self)
        if len({stems(choice) for choice in self.choices}) < len(self.choices):
            raise ValueError(f"question {self.name!r}: two of its choices are the same word")
        return self

    @field_validator("events")
    @classmethod
    def _have_a_picture(cls, events: tuple[EventKind, ...]) -> tuple[EventKind, ...]:
        for kind in events:
            if kind in KINDS_WITHOUT_PICTURE:
                raise ValueError(f"{kind.value} has no picture that could be asked about")
        return events

    @property
    def question(self) -> Question:
        return Question(self.name, self.kind, self.ask or _wording(self), self.choices, self.object)

    def is_for(self, camera: str, kind: EventKind) -> bool:
        return (not self.cameras or camera in self.cameras) and kind in (self.events or KINDS_WITH_PICTURE)


def _require_parts(settings: QuestionSettings) -> None:
    """Raises ValueError where a question lacks what its kind needs, or has what its kind has no use for."""
    where = f"question {settings.name!r}: a {settings.kind} question"
    match settings.kind:
        case QuestionKind.CHOICE if len(settings.choices) < 2:
            raise ValueError(f"{where} needs at least two choices")
        case QuestionKind.LABELS if not settings.choices:
            raise ValueError(f"{where} needs choices, the classes to look for")
        case QuestionKind.COUNT | QuestionKind.BOXES | QuestionKind.POINTS if not settings.object:
            raise ValueError(f'{where} needs an object, such as "person"')
        case QuestionKind.BOOLEAN | QuestionKind.CHOICE if not settings.ask and not settings.object:
            raise ValueError(f"{where} needs ask, the sentence to put to the model")
    if settings.choices and settings.kind not in (QuestionKind.CHOICE, QuestionKind.LABELS):
        raise ValueError(f"{where} has no use for choices")


def _require_column_kind(settings: QuestionSettings) -> None:
    kind = COLUMN_KINDS.get(settings.name, settings.kind)
    if settings.kind is not kind:
        raise ValueError(f"question {settings.name!r}: this name is that of a column that holds {kind}")


def _wording(settings: QuestionSettings) -> str:
    """A plain sentence for those who gave none. A text without one stays empty: that asks for a caption."""
    match settings.kind:
        case QuestionKind.BOOLEAN:
            return f"Is there a {settings.object} in the picture?"
        case QuestionKind.COUNT:
            return f"How many of this are visible: {settings.object}?"
        case QuestionKind.CHOICE:
            return f"Which of these is the {settings.object}?"
        case QuestionKind.LABELS:
            return "What is visible in the picture?"
        case QuestionKind.BOXES | QuestionKind.POINTS:
            return f"Where is each {settings.object}?"
        case QuestionKind.TEXT:
            return ""


DEFAULT_QUESTIONS: tuple[Question, ...] = (
    Question("people_count", QuestionKind.COUNT, "How many people are visible?", object="person"),
    Question("objects", QuestionKind.LABELS, "What is visible in the picture?", COMMON_OBJECTS),
    Question("spatial_coordinates", QuestionKind.BOXES, "Where is each person?", object="person"),
    Question("scene_description", QuestionKind.TEXT, "Describe what is happening, in one sentence."),
    Question(
        "hazard",
        QuestionKind.BOOLEAN,
        "Is there visible danger, such as fire, smoke, a fight or a person lying on the ground?",
    ),
)


def questions_for(settings: Sequence[QuestionSettings], camera: str, kind: EventKind) -> tuple[Question, ...]:
    """What to ask about a picture of this camera and event; empty where nothing is to be asked."""
    if not settings:
        return DEFAULT_QUESTIONS if kind in KINDS_WITH_PICTURE else ()
    return tuple(one.question for one in settings if one.is_for(camera, kind))


def fixed_columns(analysis: Analysis) -> dict[str, Any]:
    """The columns that every analysis has, as JSON holds them; None where nobody gave that value.

    `people_count` is also taken from any other count of persons. `confidence_scores` is by question, and
    holds only what a model or detector told.
    """
    by_name = {answer.question.name: answer for answer in analysis.answers}
    columns: dict[str, Any] = {name: _value(by_name.get(name), kind) for name, kind in COLUMN_KINDS.items()}
    if columns["people_count"] is None:
        columns["people_count"] = _count_of_people(analysis.answers)
    scores = {name: answer.confidence for name, answer in by_name.items() if answer.confidence is not None}
    return columns | {"confidence_scores": scores or None}


def _value(answer: Answer | None, kind: QuestionKind) -> Any:
    if answer is None or answer.status is not AnswerStatus.OK or answer.question.kind is not kind:
        return None
    return as_json(answer.value)


def _count_of_people(answers: Sequence[Answer]) -> Any:
    counts = (_value(one, QuestionKind.COUNT) for one in answers if stems(one.question.object) == stems("person"))
    return next((count for count in counts if count is not None), None)
