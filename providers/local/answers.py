"""What an engine answers, whichever it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from providers.base import Box, Point

Stop = Literal["stop", "length"]
"""Why a text ended: by itself, or at its limit of tokens."""


@dataclass(frozen=True, slots=True)
class Grounding:
    """Characters [start, end) of a reasoning are about these points."""

    start: int
    end: int
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str
    tokens: tuple[int, ...]
    stop: Stop
    grounding: tuple[Grounding, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is not stripped, and may be empty."""

    text: str
    tokens: tuple[int, ...]
    stop: Stop
    reasoning: Reasoning | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of the allowed answers is the likeliest. `probabilities` are among themselves: their sum is 1. `mass` is
    what all of them together have of everything that the model could have said."""

    choice: str
    probabilities: Mapping[str, float]
    mass: float


@dataclass(frozen=True, slots=True)
class Found:
    """In 0…1 of the whole picture, in the order in which the model names them, as it says them: a box may reach
    beyond the picture. `stop` is "length" where there may be more."""

    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    stop: Stop = "stop"


@dataclass(frozen=True, slots=True)
class Filled:
    """JSON text that holds a schema."""

    text: str
    tokens: int = 0
