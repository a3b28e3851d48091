"""Draws a scene at a time, and says exactly what can be seen of each actor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from tests.world.actors import State
from tests.world.backgrounds import background
from tests.world.camera import HEIGHT_PX, WIDTH_PX, Camera
from tests.world.canvas import Patch, Picture
from tests.world.people import person
from tests.world.scene import Light, Scene
from tests.world.things import backpack, car, prop

Box = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max in px; the pixels of x_max and y_max lie outside."""
_DRAW = {"person": person, "car": car, "backpack": backpack, "prop": prop}
_HALF_ALPHA = 127
_NOISE_STD = 36.0
"""Of the noise tile, in grey levels around 128."""
_SHADOWS_M = {"person": (0.42, 0.16), "car": (2.3, 0.85), "backpack": (0.3, 0.12), "prop": (0.5, 0.18)}


@dataclass(frozen=True, slots=True)
class Seen:
    """What can be seen of an actor: the box around its visible pixels, their share of its whole figure."""

    state: State
    box: Box
    visible: float

    @property
    def height_px(self) -> int:
        return self.box[3] - self.box[1]


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture and what is seen in it, from far to near. What has no visible pixel isn't listed."""

    at_s: float
    picture: Picture
    seen: tuple[Seen, ...]
    light: Light


class Renderer:
    """Draws the frames of one scene; a frame depends on the scene and its time, not on the frames before."""

    def __init__(self, scene: Scene, empty: Picture | None = None) -> None:
        """`empty` is the place's background, for those who have it already: it takes longer than a frame."""
        self._scene = scene
        self._empty = background(scene.place) if empty is None else empty
        self._noise = _noise_tile(scene.seed)
        self._lamps = _lamp_light(scene.seed)

    def frame(self, at_s: float) -> Frame:
        scene = self._scene
        states = scene.at(at_s)
        picture = self._empty.copy()
        for state in states:
            _shadow(picture, state, scene.place.camera)
        owners = np.zeros((HEIGHT_PX, WIDTH_PX), np.uint8)
        areas = [self._draw(picture, owners, number, state) for number, state in enumerate(states, start=1)]
        light = scene.light(at_s)
        return Frame(at_s, self._expose(picture, light, at_s), _seen(states, owners, areas), light)

    def _draw(self, picture: Picture, owners: Picture, number: int, state: State) -> int:
        """Returns the pixels of the whole figure, in and out of the picture."""
        patch = _DRAW[state.actor.label](state, self._scene.place.camera)
        solid = patch.alpha > _HALF_ALPHA
        _paste(picture, owners, patch, solid, number, self._smear_px(state))
        return int(np.count_nonzero(solid))

    def _smear_px(self, state: State) -> int:
        across_mps = state.speed_mps * abs(math.cos(state.facing))
        return round(self._scene.film.shutter * across_mps * self._scene.place.camera.scale(state.z_m) / 15)

    def _expose(self, picture: Picture, light: Light, at_s: float) -> Picture:
        """Light, lens and sensor."""
        film = self._scene.film
        if film.blur_px > 0:
            picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), film.blur_px), np.uint8)
        dark = max(0.0, 0.6 - light.level)
        if dark > 0:
            shine = light.level + dark * self._lamps
            picture = np.asarray(cv2.multiply(picture, shine, dtype=cv2.CV_8U), np.uint8)
            picture = _tinted(picture, 1.0, light.warmth)
        else:
            picture = _tinted(picture, light.level, light.warmth)
        grain = film.noise * (1.0 + 2.0 * dark) / _NOISE_STD
        tile = self._noise_at(at_s)
        return np.asarray(cv2.addWeighted(picture, 1.0, tile, grain, -128 * grain), np.uint8)

    def _noise_at(self, at_s: float) -> Picture:
        offsets = np.random.default_rng([self._scene.seed, 2, round(at_s * 1000)]).integers(0, 64, 2)
        top, left = int(offsets[0]), int(offsets[1])
        return np.ascontiguousarray(self._noise[top : top + HEIGHT_PX, left : left + WIDTH_PX])


def _noise_tile(seed: int) -> Picture:
    """Noise around 128, partly grey; larger than the picture, so that each frame cuts out another part."""
    rng = np.random.default_rng([seed, 1])
    shape = (HEIGHT_PX + 64, WIDTH_PX + 64)
    bulk = rng.integers(0, 256, (4, *shape), np.uint8).astype(np.int16)
    mono = bulk[0] + bulk[1] - 255
    tile = np.stack([mono // 5 + (bulk[k] - 128) // 3 for k in (1, 2, 3)], axis=2)
    return np.asarray(np.clip(tile + 128, 0, 255), np.uint8)


def _lamp_light(seed: int) -> npt.NDArray[np.float32]:
    """Height x width x 3, from 0 to about 1: pools of light from two lamps."""
    rng = np.random.default_rng([seed, 3])
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32)
    total = np.zeros((HEIGHT_PX, WIDTH_PX), np.float32)
    for _ in range(2):
        x, y, reach = rng.uniform(0, WIDTH_PX), rng.uniform(80, HEIGHT_PX), rng.uniform(90, 260)
        total += np.exp(-((columns - x) ** 2 + 2 * (rows - y) ** 2) / (2 * reach**2)).astype(np.float32)
    return np.asarray(cv2.merge([total * 0.8, total * 0.92, total]), np.float32)


def _tinted(picture: Picture, level: float, warmth: float) -> Picture:
    steps = np.arange(256, dtype=np.float32)[:, None]
    gains = np.array([level * (1 - warmth), level, level * (1 + warmth)], np.float32)
    table = np.clip(steps * gains, 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table[None]), np.uint8)


def _shadow(picture: Picture, state: State, camera: Camera) -> None:
    """A soft dark spot on the ground; none below what is worn."""
    if state.up_m > 0:
        return
    half_m, deep_m = _SHADOWS_M[state.actor.label]
    x, y = camera.project(state.x_m, state.z_m)
    scale = camera.scale(state.z_m)
    half, deep = math.ceil(half_m * scale), math.ceil(deep_m * scale)
    left, top = round(x) - half, round(y) - deep
    rows, columns, inner_rows, inner_columns = _overlap(left, top, 2 * half + 1, 2 * deep + 1)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    ys, xs = np.mgrid[-deep : deep + 1, -half : half + 1].astype(np.float32)
    fade = np.clip(1.15 - (xs / half) ** 2 - (ys / deep) ** 2, 0, 1)[inner_rows, inner_columns, None]
    picture[rows, columns] = (picture[rows, columns] * (1 - 0.42 * fade)).astype(np.uint8)


def _overlap(left: int, top: int, width: int, height: int) -> tuple[slice, slice, slice, slice]:
    """Rows and columns of the picture that a rectangle covers, and the same within the rectangle."""
    first_row, last_row = max(top, 0), min(top + height, HEIGHT_PX)
    first_column, last_column = max(left, 0), min(left + width, WIDTH_PX)
    return (
        slice(first_row, last_row),
        slice(first_column, last_column),
        slice(first_row - top, last_row - top),
        slice(first_column - left, last_column - left),
    )


def _paste(
    picture: Picture, owners: Picture, patch: Patch, solid: npt.NDArray[np.bool_], number: int, smear_px: int
) -> None:
    """Puts a figure over what is there; `owners` remembers whose pixel it is now."""
    height, width = patch.alpha.shape
    rows, columns, inner_rows, inner_columns = _overlap(patch.left_px, patch.top_px, width, height)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    colours, alpha = patch.colours, patch.alpha
    if smear_px > 1:
        colours = np.asarray(cv2.blur(colours, (smear_px, 1)), np.uint8)
        alpha = np.asarray(cv2.blur(alpha, (smear_px, 1)), np.uint8)
    left_over = (255 - alpha[inner_rows, inner_columns, None]).astype(np.uint16)
    below = (picture[rows, columns] * left_over + 127) // 255
    picture[rows, columns] = np.minimum(below + colours[inner_rows, inner_columns], 255).astype(np.uint8)
    owners[rows, columns][solid[inner_rows, inner_columns]] = number


def _seen(states: Sequence[State], owners: Picture, areas: Sequence[int]) -> tuple[Seen, ...]:
    counts = np.bincount(owners.ravel(), minlength=len(states) + 1)
    return tuple(
        Seen(state, _box(owners == number), float(counts[number]) / areas[number - 1])
        for number, state in enumerate(states, start=1)
        if counts[number] > 0 and state.actor.label != "prop"
    )


def _box(mask: npt.NDArray[np.bool_]) -> Box:
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return left, top, left + width, top + height
