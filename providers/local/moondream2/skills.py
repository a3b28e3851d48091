"""What the model is asked to do, step by step. A skill is a generator: it yields what it wants to know of the state
behind its row's last token, after having fed one more token if it says so, and is sent the answer. So it knows
nothing of batches, and rows of all skills can take a step together.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from providers.base import Box, Point
from providers.local.answers import Answer, Found, Grounding, Reasoning, Stop
from providers.local.moondream2.config import TokenizerConfig
from providers.local.moondream2.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Token:
    id: int


@dataclass(frozen=True, slots=True)
class Place:
    """A coordinate, 0…1."""

    value: float


@dataclass(frozen=True, slots=True)
class Extent:
    """Width and height, 0…1."""

    width: float
    height: float


Feed: TypeAlias = Token | Place | Extent
"""What a row's next slot may hold."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 takes the likeliest token, and the same one at every run."""

    temperature: float = 0.0
    top_p: float = 0.3


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class ChooseToken:
    """Answered with an id, never one that is banned."""

    feed: Feed | None = None
    banned: tuple[int, ...] = ()
    sampling: Sampling = GREEDY


@dataclass(frozen=True, slots=True)
class WeighTokens:
    """Answered with the logarithm of each of these ids' probability."""

    ids: tuple[int, ...]
    feed: Feed | None = None


@dataclass(frozen=True, slots=True)
class ReadPlace:
    """Answered with a coordinate, 0…1."""

    feed: Feed | None = None


@dataclass(frozen=True, slots=True)
class ReadExtent:
    """Answered with (width, height), 0…1."""

    feed: Feed | None = None


Step: TypeAlias = ChooseToken | WeighTokens | ReadPlace | ReadExtent
Reply: TypeAlias = int | float | tuple[float, ...]
T = TypeVar("T")
Skill: TypeAlias = Generator[Step, Reply, T]


def answer(tokens: Tokens, max_tokens: int, sampling: Sampling = GREEDY, feed: Feed | None = None) -> Skill[Answer]:
    """Nothing is banned at the first step; from then on, what starts an answer."""
    ids = tokens.ids
    emitted: list[int] = []
    token = yield ChooseToken(feed, (), sampling)
    while token != ids.eos_id and len(emitted) < max_tokens:
        emitted.append(_id(token))
        token = yield ChooseToken(Token(emitted[-1]), (ids.answer_id,), sampling)
    return Answer(tokens.decode(emitted), tuple(emitted), "stop" if token == ids.eos_id else "length")


def reasoned_answer(tokens: Tokens, max_tokens: int, sampling: Sampling = GREEDY) -> Skill[Answer]:
    """First aloud, with places of the picture, then the answer."""
    reasoning = yield from _reasoning(tokens, max_tokens, sampling)
    told = yield from answer(tokens, max_tokens, sampling, feed=Token(tokens.ids.answer_id))
    return Answer(told.text, told.tokens, told.stop, reasoning)


@dataclass(slots=True)
class _Span:
    tokens: list[int] = field(default_factory=list)
    coords: list[float] = field(default_factory=list)


def _reasoning(tokens: Tokens, max_tokens: int, sampling: Sampling) -> Skill[Reasoning]:
    ids = tokens.ids
    spans = [_Span()]
    count = 0
    token = yield ChooseToken(None, (), sampling)
    while token != ids.answer_id and count < max_tokens:
        count += 1
        if token in (ids.start_ground_points_id, ids.end_ground_id):
            spans.append(_Span())
        spans[-1].tokens.append(_id(token))
        feed: Feed = Token(_id(token))
        if token == ids.coord_id:
            place = _number((yield ReadPlace()))
            spans[-1].coords.append(place)
            feed = Place(place)
        token = yield ChooseToken(feed, (ids.eos_id, ids.size_id), sampling)
    return _told(tokens, spans, "stop" if token == ids.answer_id else "length")


def _told(tokens: Tokens, spans: Sequence[_Span], stop: Stop) -> Reasoning:
    text, grounding = "", []
    for span in spans:
        words = tokens.decode(span.tokens)
        if points := tuple(zip(span.coords[::2], span.coords[1::2], strict=False)):
            grounding.append(Grounding(len(text), len(text) + len(words), points))
        text += words
    emitted = tuple(token for span in spans for token in span.tokens)
    return Reasoning(text, emitted, stop, tuple(grounding))


def detect(ids: TokenizerConfig, max_objects: int) -> Skill[Found]:
    """Any token but the end means one more; which one does not matter, and it is never fed."""
    boxes: list[Box] = []
    token = yield ChooseToken()
    while token != ids.eos_id and len(boxes) < max_objects:
        x = _number((yield ReadPlace()))
        y = _number((yield ReadPlace(Place(x))))
        extent = yield ReadExtent(Place(y))
        assert isinstance(extent, tuple)
        width, height = extent
        boxes.append(Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2))
        token = yield ChooseToken(Extent(width, height))
    return Found(boxes=tuple(boxes), stop="stop" if token == ids.eos_id else "length")


def point(ids: TokenizerConfig, max_objects: int) -> Skill[Found]:
    points: list[Point] = []
    token = yield ChooseToken()
    while token != ids.eos_id and len(points) < max_objects:
        x = _number((yield ReadPlace()))
        y = _number((yield ReadPlace(Place(x))))
        points.append(Point(x, y))
        token = yield ChooseToken(Place(y))
    return Found(points=tuple(points), stop="stop" if token == ids.eos_id else "length")


def likelihood(wording: Sequence[int]) -> Skill[float]:
    """The logarithm of the probability of these tokens, one after the other."""
    total, feed = 0.0, None
    for token in wording:
        told = yield WeighTokens((token,), feed)
        assert isinstance(told, tuple)
        total, feed = total + told[0], Token(token)
    return total


def likelihoods(first_tokens: Sequence[int]) -> Skill[tuple[float, ...]]:
    """Of each of these tokens, as the first one of the answer: one look, nothing is decoded."""
    told = yield WeighTokens(tuple(first_tokens))
    assert isinstance(told, tuple)
    return told


def _id(reply: Reply) -> int:
    assert isinstance(reply, int)
    return reply


def _number(reply: Reply) -> float:
    assert isinstance(reply, float)
    return reply
