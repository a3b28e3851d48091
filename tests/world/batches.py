"""Pictures and boxes as the network is taught them: scaled, shifted, mirrored and recoloured at random."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.letterbox import PAD_GREY
from tests.world.canvas import Picture
from tests.world.stills import Truth, read_truth

Rows = npt.NDArray[np.float32]
"""n x 5: class, then centre x, centre y, width, height as shares of the input."""
_LEAST_SIDE_PX = 4.0
_LEAST_SHARE = 0.35
"""What a shift cuts to less than this share of its area isn't taught."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An input for the network, height x width x 3 in blue green red, and its boxes."""

    picture: Picture
    rows: Rows


class Samples:
    """The pictures of a folder. Sample n at an input size follows from n, the size and the seed alone."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._folder = folder
        self._truth = read_truth(folder)
        self._seed = seed

    def sample(self, number: int, height_px: int, width_px: int) -> Sample:
        """Goes round through the folder in a new order each time."""
        turn, position = divmod(number, len(self._truth))
        order = np.random.default_rng([self._seed, turn]).permutation(len(self._truth))
        name, truths = self._truth[int(order[position])]
        picture = cv2.imread(str(self._folder / name))
        assert picture is not None, name
        rng = np.random.default_rng([self._seed, 1, number])
        return _placed(np.asarray(picture, np.uint8), truths, height_px, width_px, rng)


def _placed(
    picture: Picture, truths: tuple[Truth, ...], height_px: int, width_px: int, rng: np.random.Generator
) -> Sample:
    """Between a letterboxed whole picture and a crop at up to 1.7 times that size."""
    fit = min(width_px / picture.shape[1], height_px / picture.shape[0])
    scale = fit * (1.0 if rng.random() < 0.4 else float(np.exp(rng.uniform(np.log(0.75), np.log(1.7)))))
    left, top = (
        _offset(rng, outer, inner * scale)
        for outer, inner in ((width_px, picture.shape[1]), (height_px, picture.shape[0]))
    )
    between = (scale - 1) / 2  # OpenCV's matrix moves centres of pixels, boxes have their edges
    matrix = np.array([[scale, 0, left + between], [0, scale, top + between]], np.float64)
    placed = cv2.warpAffine(picture, matrix, (width_px, height_px), borderValue=(PAD_GREY,) * 3)
    rows = _rows(truths, scale, left, top, width_px, height_px)
    if rng.random() < 0.5:
        placed, rows[:, 1] = placed[:, ::-1], 1.0 - rows[:, 1]
    return Sample(_recoloured(np.ascontiguousarray(placed, np.uint8), rng), rows)


def _offset(rng: np.random.Generator, outer_px: int, inner_px: float) -> float:
    """Where the picture begins: anywhere that fills the input, or anywhere within it."""
    return float(rng.uniform(0.0, 1.0)) * (outer_px - inner_px)


def _rows(truths: tuple[Truth, ...], scale: float, left: float, top: float, width_px: int, height_px: int) -> Rows:
    taught = [truth for truth in truths if truth.taught]
    corners = np.array([truth.box for truth in taught], np.float32).reshape(-1, 4) * scale
    corners += np.array([left, top, left, top], np.float32)
    whole = np.prod(corners[:, 2:] - corners[:, :2], axis=1)
    limits = np.array([width_px, height_px, width_px, height_px], np.float32)
    corners = np.clip(corners, 0, limits)
    sides = corners[:, 2:] - corners[:, :2]
    keep = (sides.min(axis=1, initial=np.inf) >= _LEAST_SIDE_PX) & (np.prod(sides, axis=1) >= _LEAST_SHARE * whole)
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    labels = np.array([[truth.label] for truth in taught], np.float32).reshape(-1, 1)
    rows = np.concatenate([labels, np.concatenate([centres, sides], axis=1) / limits[[0, 1, 0, 1]]], axis=1)
    return np.asarray(rows[keep], np.float32)


def _recoloured(picture: Picture, rng: np.random.Generator) -> Picture:
    """A gain for each channel and one for all."""
    if rng.random() < 0.5:
        return picture
    gains = rng.uniform(0.75, 1.2) * rng.uniform(0.92, 1.08, 3)
    table = np.clip(np.arange(256)[:, None] * gains, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table[None]), np.uint8)
