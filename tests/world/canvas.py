"""Drawing by parts: shapes are drawn in metres into a map of part numbers, which a palette then colours.

Each shape is drawn once, at twice the resolution; shrinking the coloured map gives soft edges, and the same
map gives the exact mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tests.world.actors import COLOURS, Colour

Picture = npt.NDArray[np.uint8]
"""Height x width x 3, blue green red; or a mask of height x width."""
Point = tuple[float, float]
"""Metres: to the right of the figure's foot, up above the ground."""

FINER = 2
"""Part maps are drawn this much finer than the picture."""
_SHIFT = 4
"""OpenCV's fixed-point bits of a coordinate."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A coloured figure: where its top left corner lies in the picture, and what it covers there.

    `colours` are already weighted by `alpha` (0 to 255).
    """

    left_px: int
    top_px: int
    colours: Picture
    alpha: Picture


class Canvas:
    """A part map for one figure. `foot_px` is where it stands in the picture, `scale` px per metre there."""

    def __init__(self, foot_px: Point, scale: float, half_width_m: float, height_m: float) -> None:
        margin_px = 3
        self._left_px = math.floor(foot_px[0] - half_width_m * scale) - margin_px
        self._top_px = math.floor(foot_px[1] - height_m * scale) - margin_px
        width_px = math.ceil(2 * half_width_m * scale) + 2 * margin_px + 1
        height_px = math.ceil((height_m + 0.12) * scale) + 2 * margin_px + 1
        self._foot = ((foot_px[0] - self._left_px) * FINER, (foot_px[1] - self._top_px) * FINER)
        self._scale = scale * FINER
        self._parts = np.zeros((height_px * FINER, width_px * FINER), np.uint8)

    def _fixed(self, point: Point) -> tuple[int, int]:
        x = self._foot[0] + point[0] * self._scale
        y = self._foot[1] - point[1] * self._scale
        return round((x - 0.5) * (1 << _SHIFT)), round((y - 0.5) * (1 << _SHIFT))

    def polygon(self, points: Sequence[Point], part: int) -> None:
        corners = np.array([self._fixed(point) for point in points], np.int32)
        cv2.fillPoly(self._parts, [corners], (part,), cv2.LINE_8, _SHIFT)

    def disc(self, centre: Point, radius_m: float, part: int) -> None:
        radius = round(radius_m * self._scale * (1 << _SHIFT))
        cv2.circle(self._parts, self._fixed(centre), radius, (part,), -1, cv2.LINE_8, _SHIFT)

    def oval(self, centre: Point, half_width_m: float, half_height_m: float, part: int) -> None:
        axes = (
            round(half_width_m * self._scale * (1 << _SHIFT)),
            round(half_height_m * self._scale * (1 << _SHIFT)),
        )
        cv2.ellipse(self._parts, self._fixed(centre), axes, 0, 0, 360, (part,), -1, cv2.LINE_8, _SHIFT)

    def limb(self, start: Point, end: Point, start_m: float, end_m: float, part: int) -> None:
        """A tapered rod with round ends; the radii are in metres."""
        along_x, along_y = end[0] - start[0], end[1] - start[1]
        length_m = math.hypot(along_x, along_y) or 1e-6
        side_x, side_y = -along_y / length_m, along_x / length_m
        self.polygon(
            [
                (start[0] + side_x * start_m, start[1] + side_y * start_m),
                (end[0] + side_x * end_m, end[1] + side_y * end_m),
                (end[0] - side_x * end_m, end[1] - side_y * end_m),
                (start[0] - side_x * start_m, start[1] - side_y * start_m),
            ],
            part,
        )
        self.disc(start, start_m, part)
        self.disc(end, end_m, part)

    def box(self, left_m: float, bottom_m: float, right_m: float, top_m: float, part: int) -> None:
        self.polygon([(left_m, bottom_m), (right_m, bottom_m), (right_m, top_m), (left_m, top_m)], part)

    def colour(self, palette: Sequence[Colour]) -> Patch:
        """The figure in its colours; part n takes palette[n - 1], part 0 is empty."""
        table = np.zeros((len(palette) + 1, 4), np.uint8)
        table[1:, :3] = palette
        table[1:, 3] = 255
        fine = table.view(np.uint32)[:, 0][self._parts].view(np.uint8).reshape(*self._parts.shape, 4)
        size = (self._parts.shape[1] // FINER, self._parts.shape[0] // FINER)
        small = cv2.resize(fine, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return Patch(self._left_px, self._top_px, small[:, :, :3], small[:, :, 3])


def tinted(name: str, shade: float) -> Colour:
    """A named colour, lighter or darker."""
    return toned(COLOURS[name], shade)


def toned(colour: Colour, shade: float) -> Colour:
    blue, green, red = (min(255, max(0, round(part * shade))) for part in colour)
    return blue, green, red
