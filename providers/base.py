"""What a provider is asked and what it may answer: the types that every dialect shares.

Everything here is a value. A call to a provider gives one `Outcome` per `Request`, in the same order:
an `Analysis` or a `ProviderError`, never None and never an error dressed as text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

RAW_LIMIT_BYTES = 4096
"""How much of a provider's own words is kept for the record."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in a picture; each side is a share of the picture's width or height, 0..1, x to the right,
    y down."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def area(self) -> float:
        return max(0.0, self.x_max - self.x_min) * max(0.0, self.y_max - self.y_min)


@dataclass(frozen=True, slots=True)
class Point:
    """A place in a picture, 0..1 of its width and height."""

    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Detection:
    """One object that the detector saw; `track_id` is set once a tracker has confirmed it."""

    label: str
    confidence: float
    box: Box
    track_id: int | None = None


class QuestionKind(StrEnum):
    BOOLEAN = "boolean"
    COUNT = "count"
    CHOICE = "choice"
    LABELS = "labels"
    TEXT = "text"
    BOXES = "boxes"
    POINTS = "points"


@dataclass(frozen=True, slots=True)
class Question:
    """One closed thing to find out about a picture.

    `name` is the key of the answer. `wording` is the sentence that a model reads. `choices` are the allowed
    answers of a choice and the classes of a labels question. `object` is the noun that a count, boxes or
    points question is about ("person"), which models with a detection skill are asked for directly.
    """

    name: str
    kind: QuestionKind
    wording: str
    choices: tuple[str, ...] = ()
    object: str = ""


class AnswerStatus(StrEnum):
    OK = "ok"
    UNKNOWN = "unknown"
    """The provider was asked and could not tell, or has no means to tell. The value is None."""
    ERROR = "error"
    """The provider said something that is no answer to this question. The value is None, `raw` has its
    words."""


class ConfidenceSource(StrEnum):
    LOGITS = "logits"
    DETECTOR = "detector"
    SELF_REPORTED = "self_reported"
    NONE = "none"


Value = bool | int | str | tuple[str, ...] | tuple[Box, ...] | tuple[Point, ...] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one question. `value` is None unless `status` is ok; nothing is ever made up."""

    question: Question
    value: Value
    status: AnswerStatus
    confidence: float | None = None
    confidence_source: ConfidenceSource = ConfidenceSource.NONE
    raw: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One picture and all that is to be found out about it.

    `jpeg` is a complete JPEG file. `detections` is what the detector saw in the same frame, and
    `detector_labels` is every label that it could have seen: only for those does an absence mean none.
    `urgency` is for servers that answer in an order: the lower, the sooner.
    """

    event_id: UUID
    jpeg: bytes = field(repr=False)
    questions: tuple[Question, ...]
    detections: tuple[Detection, ...] = ()
    detector_labels: frozenset[str] = frozenset()
    detector: str = ""
    urgency: int = 0


class Failure(StrEnum):
    """Why a provider gave no answer: a closed list, stored with every attempt."""

    INVALID_OUTPUT = "invalid_output"
    TRUNCATED = "truncated"
    EMPTY = "empty"
    BAD_REQUEST = "bad_request"
    AUTH = "auth"
    NOT_FOUND = "not_found"
    TOO_LARGE = "too_large"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    CONNECTION_ERROR = "connection_error"
    UNAVAILABLE = "unavailable"
    """Not asked at all: parked, breaker open, out of budget, or none configured."""


class Advice(StrEnum):
    """What a failure says about the provider, beside what it says about the request."""

    ITEM = "item"
    """Only about this picture: the provider is sound. No second try, nothing counted."""
    FAULT = "fault"
    """Counts against the provider; a second try would not help."""
    RETRY = "retry"
    """Counts against the provider; a second try may help."""
    RETRY_ONCE = "retry_once"
    ALONE = "alone"
    """Counts against the provider. It went away while it looked at this picture, or at one beside it: one more try in
    the same call, and from then on without others at its side."""
    PAUSE = "pause"
    """Leave it alone for a while: it is sound, and busy."""
    PARK = "park"
    """It can't work before someone changes something: a key, a model, an address."""


_ADVICE = {
    Failure.EMPTY: Advice.FAULT,
    Failure.AUTH: Advice.PARK,
    Failure.NOT_FOUND: Advice.PARK,
    Failure.RATE_LIMITED: Advice.PAUSE,
    Failure.OVERLOADED: Advice.PAUSE,
    Failure.SERVER_ERROR: Advice.RETRY,
    Failure.TIMEOUT: Advice.FAULT,
    Failure.CONNECTION_ERROR: Advice.RETRY,
}
"""The usual advice; a dialect that knows better gives its own. Failures not named here are about the item."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One provider's part in the story of a request; `failure` is None for the one that answered."""

    provider: str
    failure: Failure | None
    message: str
    duration_ms: float


class ProviderError(Exception):
    """A provider gave no usable answer to one request.

    `retry_after_s` is the provider's own word on when to come back. `attempts` is filled in by the chain.
    `advice` is what the failure means for the provider; None takes the usual one for that failure.
    The message never holds a secret: each provider takes its own key out of what a server echoes.
    """

    def __init__(
        self,
        failure: Failure,
        message: str,
        *,
        retry_after_s: float | None = None,
        attempts: tuple[Attempt, ...] = (),
        advice: Advice | None = None,
    ) -> None:
        message = harmless(message)
        super().__init__(f"{failure}: {message}")
        self.failure = failure
        self.message = message
        self.retry_after_s = retry_after_s
        self.attempts = attempts
        self.advice = advice or _ADVICE.get(failure, Advice.ITEM)


@dataclass(frozen=True, slots=True)
class Analysis:
    """The answers to one request, with who gave them and what it took."""

    event_id: UUID
    provider: str
    model: str
    model_version: str
    answers: tuple[Answer, ...]
    started_at: datetime
    completed_at: datetime
    processing_time_ms: float
    degraded: bool = False
    tokens_in: int | None = None
    tokens_out: int | None = None
    cost_usd: float | None = None
    attempts: tuple[Attempt, ...] = ()


Outcome = Analysis | ProviderError


class Provider(Protocol):
    """Someone who can answer. Owns its connections between `async with` and its end."""

    name: str

    async def analyze(self, requests: Sequence[Request]) -> list[Outcome]:
        """One outcome per request, in order. Raises nothing but CancelledError and bugs."""
        ...

    async def probe(self) -> str:
        """Ask for real, as cheaply as can be, and say who answered (model and version). Raises
        ProviderError."""
        ...


def truncated(text: str, limit_bytes: int = RAW_LIMIT_BYTES) -> str:
    """The start of a text that is not ours, safe to store: no NUL, no lone surrogates, at most limit_bytes of
    UTF-8."""
    clean = text[:limit_bytes].replace("\x00", "\ufffd").encode("utf-8", "replace")[:limit_bytes]
    return clean.decode("utf-8", "ignore")


_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys, what ends a line where none should end, and what turns text around. Tab and newline stay."""


def harmless(text: str) -> str:
    """As `truncated`, and safe to show: what a stranger says may be written to move the reader's terminal."""
    return truncated(_CONTROLS.sub("\ufffd", text[:RAW_LIMIT_BYTES]))


def as_json(value: Value) -> Any:
    """A value as JSON holds it: boxes and points become objects with the field names that everyone uses."""
    if isinstance(value, tuple):
        return [_shape_as_json(item) for item in value]
    return value


def _shape_as_json(item: str | Box | Point) -> Any:
    if isinstance(item, Box):
        return {"x_min": item.x_min, "y_min": item.y_min, "x_max": item.x_max, "y_max": item.y_max}
    if isinstance(item, Point):
        return {"x": item.x, "y": item.y}
    return item
