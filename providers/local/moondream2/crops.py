"""From a picture to the crops that the encoder sees: one of the whole, and overlapping ones of its parts."""

from dataclasses import dataclass
from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from providers.local.moondream2.config import VisionConfig

Pixels = NDArray[np.uint8]
"""[crops, side, side, 3], RGB."""


@dataclass(frozen=True, slots=True)
class Crops:
    """`pixels[0]` is the whole picture, then come its parts row by row; where there is one part, it is the whole
    picture too, and is not there twice."""

    pixels: Pixels
    rows: int
    cols: int

    @property
    def is_whole(self) -> bool:
        return len(self.pixels) == 1


def tiling(width: int, height: int, config: VisionConfig) -> tuple[int, int]:
    """Rows and columns of parts for a picture of that size."""
    window, margins, most = config.window_px, 2 * config.margin_px, config.max_crops
    inner_h, inner_w = height - margins, width - margins
    if inner_h <= window or inner_w <= window:
        return 1, 1
    rows_min, cols_min = ceil(inner_h / window), ceil(inner_w / window)
    if rows_min * cols_min > most:
        scale = sqrt(most / (rows_min * cols_min))
        return max(1, floor(rows_min * scale)), max(1, floor(cols_min * scale))
    rows = max(floor(sqrt(most * inner_h / inner_w)), rows_min)
    cols = max(floor(sqrt(most * inner_w / inner_h)), cols_min)
    if rows * cols > most:
        if cols > rows:
            cols = floor(most / rows)
        else:
            rows = floor(most / cols)
    return max(1, rows), max(1, cols)


def crops_of(picture: Image.Image, config: VisionConfig) -> Crops:
    """Alpha is dropped, not blended; the aspect is not kept. Pillow's Lanczos filter, which the recorded answers of
    the model were made with: another filter gives other pixels."""
    rgb = picture.convert("RGB")
    side, window = config.crop_size, config.window_px
    rows, cols = tiling(rgb.width, rgb.height, config)
    whole = _resized(rgb, side, side)
    if rows == cols == 1:
        return Crops(whole[None], 1, 1)
    margins = 2 * config.margin_px
    large = _resized(rgb, cols * window + margins, rows * window + margins)
    corners = [(window * row, window * col) for row in range(rows) for col in range(cols)]
    parts = [large[top : top + side, left : left + side] for top, left in corners]
    return Crops(np.stack([whole, *parts]), rows, cols)


def _resized(picture: Image.Image, width: int, height: int) -> Pixels:
    return np.array(picture.resize((width, height), Image.Resampling.LANCZOS))
