"""Boxes and points from JSON, where a coordinate is a share of the picture and nothing else.

Pixels and 0..1000 scales are refused, never rescaled: which one it is could only be guessed.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

from providers.base import Box, Point

OVERHANG = 0.05
"""Detection heads give a centre and a size, so that a box at the edge reaches a little over it. That much is
cut off."""

MAX_SHAPES = 150
"""What Moondream gives at most; a longer list is no list of objects."""

Shape = TypeVar("Shape", Box, Point)


def boxes(value: Any) -> tuple[Box, ...]:
    """Raises ValueError unless every single one is a box: a list with one left out would be a wrong count."""
    return _all(value, box)


def points(value: Any) -> tuple[Point, ...]:
    return _all(value, point)


def box(value: Any) -> Box:
    x_min, y_min, x_max, y_max = (_share(value, key) for key in ("x_min", "y_min", "x_max", "y_max"))
    if x_min > x_max or y_min > y_max:
        raise ValueError("a box whose end is before its start")
    return Box(x_min, y_min, x_max, y_max)


def point(value: Any) -> Point:
    return Point(_share(value, "x"), _share(value, "y"))


def _all(value: Any, one: Callable[[Any], Shape]) -> tuple[Shape, ...]:
    if not isinstance(value, list):
        raise ValueError("not a list")
    if len(value) > MAX_SHAPES:
        raise ValueError(f"more than {MAX_SHAPES} of them")
    return tuple(one(item) for item in value)


def _share(value: Any, key: str) -> float:
    number = value.get(key) if isinstance(value, dict) else None
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(f"{key} is no number")
    if not math.isfinite(number) or not -OVERHANG <= number <= 1 + OVERHANG:
        raise ValueError(f"{key} is not within 0..1")
    return min(max(float(number), 0.0), 1.0)
