"""Examines a model on tableaux that it has never seen, each question by itself, through the engine that serves it.

python -m tests.world.exam FOLDER --pictures 1000

Exit status 0 when every question reaches its bar.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from providers.base import Box, Point
from providers.local.engine import Asked, Engine, open_engine
from providers.local.settings import ModelSettings
from tests.world import lessons
from tests.world.canvas import Picture
from tests.world.lessons import KINDS, Lesson, Truth, truth_of
from tests.world.stills import jpeg
from tests.world.tableaux import tableaux

FIRST_SEED = 9_000_000
"""No model was taught with these."""
QUALITY = 85
"""The daemon's own."""
AT_ONCE = 16
IOU = 0.5
OBJECTS = 20

BARS: Mapping[str, float] = {
    "yes or no": 0.97,
    "count of people": 0.90,
    "count of people, within one": 0.98,
    "choice": 0.93,
    "boxes, all": 0.92,
    "boxes": 0.82,
    "points": 0.93,
    "caption facts": 0.95,
}
"""What each question of a kind has to reach."""


@dataclass(slots=True)
class Score:
    """Of one question: right answers, or an F1 of what was found."""

    kind: str
    right: int = 0
    asked: int = 0
    said: int = 0
    answers: dict[str, int] = field(default_factory=dict)

    def answer(self, is_right: bool, truth: str = "") -> None:
        self.asked += 1
        self.said += 1
        self.right += is_right
        self.answers[truth] = self.answers.get(truth, 0) + 1

    def found(self, right: int, true: int, said: int) -> None:
        self.right += right
        self.asked += true
        self.said += said

    @property
    def value(self) -> float:
        return 2 * self.right / max(self.asked + self.said, 1)

    @property
    def constant(self) -> float | None:
        """What the best answer that never looks would get."""
        return max(self.answers.values()) / self.asked if self.answers else None

    @property
    def bar(self) -> float | None:
        return BARS.get(self.kind)


Marks = dict[str, Score]


def papers(count: int, spoils: Iterable[str]) -> dict[str, list[tuple[bytes, Truth]]]:
    """JPEGs as a daemon sends them, and what they show; the same pictures for each of what happens to them before."""
    seeds = iter(range(FIRST_SEED, FIRST_SEED + count))
    drawn = (tableau for seed in seeds for tableau in tableaux(seed))
    each: dict[str, list[tuple[bytes, Truth]]] = {spoil: [] for spoil in spoils}
    for tableau in islice(drawn, count):
        for spoil, taken in each.items():
            taken.append((jpeg(SPOILT[spoil](tableau.frame.picture), QUALITY), truth_of(tableau)))
    return each


def _enlarged(picture: Picture) -> Picture:
    return np.asarray(cv2.resize(picture, (1280, 720), interpolation=cv2.INTER_CUBIC), np.uint8)


def _jpeg_40(picture: Picture) -> Picture:
    with Image.open(BytesIO(jpeg(picture, 40))) as opened:
        return np.asarray(opened.convert("RGB"), np.uint8)[..., ::-1].copy()


def _darker(picture: Picture) -> Picture:
    return np.asarray(picture * 0.85, np.uint8)


SPOILT = {"": lambda picture: picture, "enlarged to 1280 x 720": _enlarged, "JPEG 40": _jpeg_40, "darker": _darker}


class Way(NamedTuple):
    """How the model is run, and what was done to the pictures before. Fewer bits may cost something."""

    precision: str = "f32"
    spoil: str = ""

    @property
    def must_pass(self) -> bool:
        return self.precision == "f32"


WAYS = {name or "f32": Way(spoil=name) for name in SPOILT} | {bits: Way(bits) for bits in ("bf16", "int8", "int4")}


async def examine(engine: Engine, papers: Sequence[tuple[bytes, Truth]]) -> Marks:
    marks: Marks = {}
    room = asyncio.Semaphore(AT_ONCE)

    async def one(picture: bytes, truth: Truth) -> None:
        async with room:
            await _paper(engine, marks, picture, truth)

    async with asyncio.TaskGroup() as group:
        for picture, truth in papers:
            group.create_task(one(picture, truth))
    return dict(sorted(marks.items(), key=lambda item: (item[1].kind, item[0])))


async def _paper(engine: Engine, marks: Marks, picture: bytes, truth: Truth) -> None:
    def mark(name: str, kind: str) -> Score:
        return marks.setdefault(name, Score(kind))

    async with asyncio.TaskGroup() as group:
        yes_no = [*lessons.closed(truth), *lessons.absent()]
        for kind, asked in (("yes or no", yes_no), ("choice", list(lessons.choices(truth)))):
            for lesson in asked:
                group.create_task(_choose(engine, mark(lesson.about, kind), picture, lesson))
        for lesson in lessons.counts(truth):
            group.create_task(_count(engine, mark, picture, lesson))
        for label, (name, _) in KINDS.items():
            if label not in truth.fuzzy:
                group.create_task(_boxes(engine, mark, picture, name, label, truth))
                group.create_task(_points(engine, mark, picture, name, label, truth))
        if captions := lessons.captions(truth):
            group.create_task(_caption(engine, mark, picture, captions["normal"], truth.dark))


ASKED = Asked(max_tokens=64)


async def _choose(engine: Engine, score: Score, picture: bytes, lesson: Lesson) -> None:
    chosen = await engine.choose(picture, lesson.wordings[0], {one: (one,) for one in lesson.choices}, ASKED)
    score.answer(chosen.choice == lesson.answer, lesson.answer)


async def _count(engine: Engine, mark: Any, picture: bytes, lesson: Lesson) -> None:
    said = (await engine.query(picture, lesson.wordings[0], ASKED)).text
    what = {"count_person": "people", "count_car": "cars", "count_backpack": "backpacks"}[lesson.about]
    mark(f"count of {what}", f"count of {what}").answer(said == lesson.answer, lesson.answer)
    near = said.isdecimal() and abs(int(said) - int(lesson.answer)) <= 1
    mark(f"count of {what}, within one", f"count of {what}, within one").answer(near, lesson.answer)


async def _boxes(engine: Engine, mark: Any, picture: bytes, name: str, label: str, truth: Truth) -> None:
    found = (await engine.detect(picture, name, OBJECTS, ASKED)).boxes
    true = [Box(*thing.box) for thing in truth.of(label)]
    right = len(_pairs([[overlap(one, other) for other in true] for one in found], IOU))
    for score in (mark(f"boxes of {label}", "boxes"), mark("boxes, all", "boxes, all")):
        score.found(right, len(true), len(found))


async def _points(engine: Engine, mark: Any, picture: bytes, name: str, label: str, truth: Truth) -> None:
    found = (await engine.point(picture, name, OBJECTS, ASKED)).points
    true = [Box(*thing.box) for thing in truth.of(label)]
    right = len(_pairs([[float(_inside(point, box)) for box in true] for point in found], 0.5))
    mark("points", "points").found(right, len(true), len(found))


def _pairs(likeness: list[list[float]], least: float) -> list[tuple[int, int]]:
    """The best first, each of both sides once."""
    every = sorted(((value, a, b) for a, row in enumerate(likeness) for b, value in enumerate(row)), reverse=True)
    pairs: list[tuple[int, int]] = []
    for value, a, b in every:
        if value >= least and all(a != one and b != other for one, other in pairs):
            pairs.append((a, b))
    return pairs


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    shared = Box(
        max(one.x_min, other.x_min),
        max(one.y_min, other.y_min),
        min(one.x_max, other.x_max),
        min(one.y_max, other.y_max),
    )
    both = shared.area if shared.x_max > shared.x_min and shared.y_max > shared.y_min else 0.0
    return both / max(one.area + other.area - both, 1e-9)


def _inside(point: Point, box: Box) -> bool:
    return box.x_min <= point.x <= box.x_max and box.y_min <= point.y <= box.y_max


async def _caption(engine: Engine, mark: Any, picture: bytes, true: str, dark: bool | None) -> None:
    said = (await engine.caption(picture, "normal", ASKED)).text
    ours, theirs = lessons.facts(said), lessons.facts(true)
    for name, value in theirs.items():
        if name != "night" or dark is not None:
            mark("caption facts", "caption facts").answer(ours[name] == value)
            mark(f"caption: {name}", "caption").answer(ours[name] == value, value)
    mark("caption, word for word", "caption").answer(said == true)


def table(marks: Mapping[str, Marks]) -> str:
    """As Markdown, a column for each way; what is below its bar stands out."""
    lines = [f"| question | of | bar | best constant answer | {' | '.join(marks)} |", "|---" * (4 + len(marks)) + "|"]
    for name, first in next(iter(marks.values())).items():
        constant = "" if first.constant is None or first.constant == 1 else f"{first.constant:.3f}"
        bar = "" if first.bar is None else f"{first.bar:.2f}"
        told = " | ".join(_told(each[name]) for each in marks.values())
        lines.append(f"| {name} | {first.asked} | {bar} | {constant} | {told} |")
    return "\n".join(lines)


def _told(score: Score) -> str:
    value = f"{score.value:.3f}"
    return value if score.bar is None or score.value >= score.bar else f"**{value}**"


def below(marks: Marks, slack: float = 0.0) -> list[str]:
    """Questions that do not reach their bar."""
    missed = [(name, score.value, score.bar) for name, score in marks.items() if score.bar is not None]
    return [f"{name}: {value:.3f} < {bar:.2f}" for name, value, bar in missed if value < bar - slack]


async def run(folder: Path, count: int, ways: Sequence[str]) -> dict[str, Marks]:
    found: dict[str, Marks] = {}
    taken = papers(count, {WAYS[way].spoil for way in ways})
    for way in ways:
        precision, spoil = WAYS[way]
        settings = ModelSettings.model_validate(
            {"folder": folder, "precision": precision, "rows": 128, "waiting": 10_000}
        )
        async with open_engine(settings) as engine:
            found[way] = await examine(engine, taken[spoil])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, default=["f32"], help="in what precision, or with what done to the pictures"
    )
    args = parser.parse_args()
    found = asyncio.run(run(args.folder, args.pictures, args.ways))
    print(table(found))
    missed = [f"{way}: {line}" for way, marks in found.items() if WAYS[way].must_pass for line in below(marks)]
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()
