"""Questions and answers as rows of slots: what goes in, what should come out, and what each slot may see.

Several questions about one picture share a row: each begins at the position behind the picture, and sees the picture
and its own earlier slots only. So the picture is paid for once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.tokens import Tokens
from tests.world import lessons
from tests.world.lessons import KINDS, Lesson, Thing, Truth

TOKEN, COORD, SIZE = range(3)
SLOTS = 140
"""Of a row, behind the picture, at most."""
WORD, CAPTION, ONE_MORE, END = 1.0, 0.25, 0.5, 0.1
"""Weights of what is to be said: a short answer, a token of a caption, that there is one more object, the end."""
NOTHING = -1


@dataclass(slots=True)
class Slots:
    """Of one question: what is fed, and what should be read from the state behind it."""

    kinds: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    values: list[tuple[float, float]] = field(default_factory=list)
    says: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    coords: list[float] = field(default_factory=list)
    sizes: list[tuple[float, float]] = field(default_factory=list)

    def feed(self, kind: int, id_: int = 0, value: tuple[float, float] = (0.0, 0.0)) -> None:
        self.kinds.append(kind)
        self.ids.append(id_)
        self.values.append(value)
        self.says.append(NOTHING)
        self.weights.append(0.0)
        self.coords.append(NOTHING)
        self.sizes.append((NOTHING, NOTHING))

    def say(self, id_: int, weight: float) -> None:
        """Behind the last slot."""
        self.says[-1], self.weights[-1] = id_, weight

    def __len__(self) -> int:
        return len(self.kinds)


class Teacher:
    """Puts questions together. `noise` is in bins: what is fed of a coordinate is not quite the truth, as it will not
    be later on."""

    def __init__(self, tokens: Tokens, config: MoondreamConfig, rng: np.random.Generator) -> None:
        self._tokens = tokens
        self._ids = tokens.ids
        self._bins = config.region.coord_out_dim
        self._rng = rng
        self._encoded: dict[str, list[int]] = {}
        self._absent = list(lessons.absent())

    def row(self, truth: Truth) -> list[Slots]:
        """As many questions as there is room for."""
        row: list[Slots] = []
        used = 0
        for question in self._questions(truth):
            if used + len(question) <= SLOTS:
                row.append(question)
                used += len(question)
        return row

    def _questions(self, truth: Truth) -> Iterator[Slots]:
        """First those that must not be missing."""
        rng = self._rng
        counts = list(lessons.counts(truth))
        closed = list(lessons.closed(truth))
        choices = list(lessons.choices(truth))
        finds = [(label, is_box) for label in KINDS if label not in truth.fuzzy for is_box in (True, False)]
        yield from (self.answer(one) for one in choices if one.about == "car_colour")
        if finds:
            for number in rng.choice(len(finds), min(3, len(finds)), replace=False, p=_shares(finds)):
                label, is_box = finds[int(number)]
                yield self.found(KINDS[label][0], truth.of(label), is_box)
        yield from (self.answer(one) for one in counts if one.about == "count_person" or rng.random() < 0.3)
        if captions := lessons.captions(truth):
            yield from self._described(captions)
        yield from (self.answer(closed[int(n)]) for n in rng.choice(len(closed), min(3, len(closed)), replace=False))
        yield from (self.answer(one) for one in choices if one.about != "car_colour" and rng.random() < 0.6)
        if rng.random() < 0.4:
            yield self.answer(self._absent[int(rng.integers(len(self._absent)))])

    def _described(self, captions: Mapping[str, str]) -> Iterator[Slots]:
        chance = self._rng.random()
        if chance < 0.15:
            yield self._spoken(self._tokens.query(lessons.DESCRIBE), captions["normal"], CAPTION)
        elif chance < 0.6:
            length = ("normal", "normal", "short", "long")[int(self._rng.integers(4))]
            yield self._spoken(self._tokens.caption(length), captions[length], CAPTION)  # type: ignore[arg-type]

    def answer(self, lesson: Lesson) -> Slots:
        asked = lesson.wordings[int(self._rng.integers(len(lesson.wordings)))]
        return self._spoken(self._tokens.query(asked), lesson.answer, WORD)

    def _spoken(self, prompt: Sequence[int], words: str, weight: float) -> Slots:
        slots = Slots()
        for id_ in prompt:
            slots.feed(TOKEN, id_)
        for id_ in self._encode(words):
            slots.say(id_, weight)
            slots.feed(TOKEN, id_)
        slots.say(self._ids.eos_id, END)
        return slots

    def found(self, what: str, things: Sequence[Thing], is_box: bool) -> Slots:
        """Each object from left to right: x, y, and for a box its size."""
        prompt = self._tokens.detect(what) if is_box else self._tokens.point(what)
        slots = Slots()
        for id_ in prompt:
            slots.feed(TOKEN, id_)
        for thing in things:
            x_min, y_min, x_max, y_max = thing.box
            x, y = (x_min + x_max) / 2, (y_min + y_max) / 2
            slots.say(self._ids.coord_id, ONE_MORE)
            slots.coords[-1] = x
            slots.feed(COORD, value=(self._about(x), 0.0))
            slots.coords[-1] = y
            slots.feed(COORD, value=(self._about(y), 0.0))
            if is_box:
                size = (x_max - x_min, y_max - y_min)
                slots.sizes[-1] = size
                slots.feed(SIZE, value=size)
        slots.say(self._ids.eos_id, ONE_MORE)
        return slots

    def _about(self, value: float) -> float:
        """As a decoded bin is, and maybe one beside it."""
        bin_ = int(value * self._bins) + int(self._rng.integers(-1, 2))
        return min(max(bin_, 0), self._bins - 1) / self._bins

    def _encode(self, words: str) -> list[int]:
        if words not in self._encoded:
            self._encoded[words] = self._tokens.encode(words)
        return self._encoded[words]


def _shares(finds: Sequence[tuple[str, bool]]) -> npt.NDArray[np.float64]:
    """People are asked for most often, and boxes more often than points."""
    weights = np.array([(3.0 if label == "person" else 2.0) * (2.0 if is_box else 1.0) for label, is_box in finds])
    return np.asarray(weights / weights.sum(), np.float64)


@dataclass(frozen=True, slots=True)
class Rows:
    """[rows, slots] each; `question` numbers a row's questions, NOTHING where a slot is empty; `values` and `sizes`
    have two numbers a slot. Targets are NOTHING where nothing is to be read."""

    kinds: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    values: npt.NDArray[np.float32]
    positions: npt.NDArray[np.int64]
    question: npt.NDArray[np.int64]
    says: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]
    coords: npt.NDArray[np.float32]
    sizes: npt.NDArray[np.float32]


def stacked(rows: Sequence[Sequence[Slots]], first_position: int) -> Rows:
    """As long as the longest of them."""
    shape = (len(rows), max(sum(map(len, row)) for row in rows))
    out = Rows(
        kinds=np.zeros(shape, np.int64),
        ids=np.zeros(shape, np.int64),
        values=np.zeros((*shape, 2), np.float32),
        positions=np.zeros(shape, np.int64),
        question=np.full(shape, NOTHING, np.int64),
        says=np.full(shape, NOTHING, np.int64),
        weights=np.zeros(shape, np.float32),
        coords=np.full(shape, NOTHING, np.float32),
        sizes=np.full((*shape, 2), NOTHING, np.float32),
    )
    for row, questions in enumerate(rows):
        start = 0
        for number, slots in enumerate(questions):
            here = (row, slice(start, start + len(slots)))
            out.kinds[here], out.ids[here], out.values[here] = slots.kinds, slots.ids, slots.values
            out.positions[here] = first_position + np.arange(len(slots))
            out.question[here] = number
            out.says[here], out.weights[here] = slots.says, slots.weights
            out.coords[here], out.sizes[here] = slots.coords, slots.sizes
            start += len(slots)
    return out
