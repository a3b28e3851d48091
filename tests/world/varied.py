"""The same picture taken a little otherwise: from nearer, mirrored, brighter, with other noise. So that a pool teaches
what is in its pictures, and not the pictures themselves."""

from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from tests.world.lessons import Box, Thing, Truth
from tests.world.tableaux import HIDDEN

Picture = npt.NDArray[np.uint8]

LEFT = 0.4
"""Of an object that is cut off at the border, such a share has to be left, or nobody is asked about its kind."""
NEARER = 0.75
"""Of the pictures."""
NEAREST = 0.75
"""Share of the width and height that is left at least."""
ASPECT = 0.07
TRIES = 4
GAIN, TINT = 0.1, 0.04
NOISE = 4.0
_TILES = 32


class Varied:
    """Pictures of one side, in px; what is done to each follows from `rng`."""

    def __init__(self, side_px: int, rng: np.random.Generator) -> None:
        self._side_px, self._rng = side_px, rng
        self._noise = rng.standard_normal((_TILES, side_px, side_px, 3)).astype(np.float32)

    def __call__(self, picture: Picture, truth: Truth) -> tuple[Picture, Truth]:
        rng = self._rng
        if rng.random() < 0.5:
            picture, truth = np.ascontiguousarray(picture[:, ::-1]), truth.mirrored()
        for _ in range(TRIES if rng.random() < NEARER else 0):
            window = self._window()
            nearer = cropped(truth, window)
            if nearer.fuzzy == truth.fuzzy:
                picture, truth = self._enlarged(picture, window), nearer
                break
        gain = rng.uniform(1 - GAIN, 1 + GAIN) * rng.uniform(1 - TINT, 1 + TINT, 3)
        noise = self._noise[rng.integers(_TILES)] * abs(rng.normal(0, NOISE))
        return np.clip(picture * gain + noise, 0, 255).astype(np.uint8), truth

    def _window(self) -> Box:
        """What of the picture is left."""
        rng = self._rng
        width = float(rng.uniform(NEAREST, 1.0))
        height = float(np.clip(width * rng.uniform(1 - ASPECT, 1 + ASPECT), NEAREST, 1.0))
        left, top = float(rng.uniform(0, 1 - width)), float(rng.uniform(0, 1 - height))
        return left, top, left + width, top + height

    def _enlarged(self, picture: Picture, window: Box) -> Picture:
        side, (left, top, right, bottom) = self._side_px, window
        across, down = 1 / (right - left), 1 / (bottom - top)
        # OpenCV's matrix moves the centres of pixels
        matrix = np.array([[across, 0, 0], [0, down, 0]], np.float64)
        matrix[:, 2] = (0.5 - left * side) * across - 0.5, (0.5 - top * side) * down - 0.5
        moved = cv2.warpAffine(picture, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(moved, np.uint8)


def cropped(truth: Truth, window: Box) -> Truth:
    """What a part of the picture shows. A kind of which something is neither clear to see nor gone is fuzzy; people
    of whom one is gone stand in no formation that has a name."""
    cut = [(thing, *_cut(thing, window)) for thing in truth.things]
    fuzzy = {thing.label for thing, _, share in cut if HIDDEN <= share < LEFT} | set(truth.fuzzy)
    things = [kept for _, kept, share in cut if share >= LEFT and kept.label not in fuzzy]
    is_whole = sum(one.label == "person" for one in things) == len(truth.of("person"))
    return replace(
        truth,
        things=tuple(sorted(things, key=lambda one: one.x)),
        fuzzy=tuple(label for label in ("person", "car", "backpack") if label in fuzzy),
        formation=truth.formation if is_whole else "",
    )


def _cut(thing: Thing, window: Box) -> tuple[Thing, float]:
    """In the window, and the share of it that is left."""
    left, top, right, bottom = window
    x_min, x_max = ((x - left) / (right - left) for x in (thing.box[0], thing.box[2]))
    y_min, y_max = ((y - top) / (bottom - top) for y in (thing.box[1], thing.box[3]))
    whole = (x_max - x_min) * (y_max - y_min)
    box = (max(x_min, 0.0), max(y_min, 0.0), min(x_max, 1.0), min(y_max, 1.0))
    seen = max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)
    return replace(thing, box=box), seen / max(whole, 1e-9)
