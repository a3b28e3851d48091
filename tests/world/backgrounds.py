"""What stands behind the actors: ground, wall and sky, each point coloured from its place in the world."""

import cv2
import numpy as np
import numpy.typing as npt

from tests.world.actors import COLOURS, Colour
from tests.world.camera import HEIGHT_PX, WIDTH_PX
from tests.world.canvas import Picture, toned
from tests.world.places import Place

Plane = npt.NDArray[np.float32]
"""Height x width; a value for each point, mostly metres."""
Mask = npt.NDArray[np.bool_]
_GROUNDS: dict[str, tuple[Colour, ...]] = {
    "street": ((150, 152, 156), (128, 132, 140), (120, 130, 150)),
    "shop": ((190, 200, 208), (150, 165, 185), (120, 140, 175), (175, 170, 165)),
    "yard": ((132, 138, 142), (110, 128, 146), (105, 112, 116), (90, 120, 110)),
}
_WALLS: tuple[Colour, ...] = (
    (110, 130, 170),
    (150, 160, 170),
    (120, 120, 128),
    (150, 180, 200),
    (90, 105, 130),
    (190, 195, 195),
)
_ROAD: Colour = (84, 82, 80)
_MARKING: Colour = (205, 210, 212)
_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((214, 186, 150), (235, 226, 214)),
    ((205, 200, 196), (228, 226, 224)),
)


def background(place: Place) -> Picture:
    """The empty place in full light."""
    rng = np.random.default_rng(place.texture_seed)
    rows, columns = np.mgrid[0:HEIGHT_PX, 0:WIDTH_PX].astype(np.float32) + 0.5
    foot_px = place.camera.project(0.0, place.wall_m)[1]
    canvas = np.empty((HEIGHT_PX, WIDTH_PX, 3), np.float32)
    ground = rows >= foot_px
    canvas[:] = _sky(rng, rows, foot_px)
    _paint_ground(canvas, place, rng, rows, columns, ground)
    _paint_wall(canvas, place, rng, rows, columns, ~ground)
    canvas *= _stains(rng)[:, :, None]
    return np.clip(canvas, 0, 255).astype(np.uint8)


def _sky(rng: np.random.Generator, rows: Plane, foot_px: float) -> npt.NDArray[np.float32]:
    top, bottom = _SKIES[int(rng.integers(len(_SKIES)))]
    share = np.clip(rows[:, :1] / max(foot_px, 1.0), 0, 1)[:, :, None]
    return np.asarray((1 - share) * np.array(top) + share * np.array(bottom), np.float32)


def _stains(rng: np.random.Generator) -> Plane:
    """Slow and fine variation of brightness around 1."""
    from_slow = _stretched(rng.normal(0, 0.05, (7, 12)))
    from_fine = 0.025 * rng.standard_normal((HEIGHT_PX, WIDTH_PX), np.float32)
    return np.asarray(1 + from_slow + from_fine, np.float32)


def _stretched(coarse: npt.NDArray[np.float64]) -> Plane:
    return np.asarray(cv2.resize(coarse, (WIDTH_PX, HEIGHT_PX), interpolation=cv2.INTER_CUBIC), np.float32)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> npt.NDArray[np.float32]:
    chosen = colours[int(rng.integers(len(colours)))]
    return np.array(toned(chosen, float(rng.uniform(0.8, 1.15))), np.float32)


def _joints(along: Plane, pitch_m: float, gap_m: float) -> Mask:
    return _within(along, pitch_m) < gap_m


def _within(along: Plane, pitch_m: float) -> Plane:
    """The remainder of a division; several times as fast as np.mod."""
    return np.asarray(along - np.floor(along / pitch_m) * pitch_m, np.float32)


def _paint_ground(
    canvas: npt.NDArray[np.float32],
    place: Place,
    rng: np.random.Generator,
    rows: Plane,
    columns: Plane,
    ground: Mask,
) -> None:
    """Tiles, slabs or bare ground, and the road across it."""
    camera = place.camera
    z_m = np.where(ground, camera.focal_px * camera.height_m / np.maximum(rows - camera.horizon_px, 1.0), 1.0)
    x_m = (columns - WIDTH_PX / 2) * z_m / camera.focal_px
    base = _pick(rng, _GROUNDS[place.kind])
    canvas[ground] = base
    pitch_m = float(rng.uniform(0.5, 2.2))
    if rng.random() < 0.4:
        checks = (np.floor(x_m / pitch_m) + np.floor(z_m / pitch_m)) % 2 == 0
        canvas[ground & checks] = base * float(rng.uniform(0.78, 0.95))
    elif rng.random() < 0.7:
        gap_m = 0.02 + 0.004 * z_m
        lines = (_within(x_m, pitch_m) < gap_m) | (_within(z_m, pitch_m) < 2 * gap_m)
        canvas[ground & lines] = base * 0.8
    if place.road_m is not None:
        _paint_road(canvas, place, rng, x_m, z_m, ground)
    canvas[ground] *= np.clip(1.05 - 0.004 * z_m[ground], 0.8, 1.05)[:, None]


def _paint_road(
    canvas: npt.NDArray[np.float32],
    place: Place,
    rng: np.random.Generator,
    x_m: Plane,
    z_m: Plane,
    ground: Mask,
) -> None:
    start_m, end_m = place.road_m or (0.0, 0.0)
    on_road = ground & (z_m > start_m) & (z_m < end_m)
    if place.kind == "street":
        canvas[on_road] = np.array(_ROAD, np.float32) * float(rng.uniform(0.8, 1.25))
        kerb = ground & ((np.abs(z_m - start_m) < 0.12) | (np.abs(z_m - end_m) < 0.2))
        canvas[kerb] = 175.0
        middle = on_road & (np.abs(z_m - (start_m + end_m) / 2) < 0.12) & _joints(x_m, 3.0, 1.6)
        canvas[middle] = _MARKING
    else:
        edges = ground & ((np.abs(z_m - start_m) < 0.07) | (np.abs(z_m - end_m) < 0.1))
        canvas[edges] = np.array(COLOURS["yellow" if rng.random() < 0.5 else "white"], np.float32) * 0.85


def _paint_wall(
    canvas: npt.NDArray[np.float32],
    place: Place,
    rng: np.random.Generator,
    rows: Plane,
    columns: Plane,
    above: Mask,
) -> None:
    """A wall at `wall_m`: houses with windows and doors, shelves with goods, or a fence."""
    camera = place.camera
    scale = camera.scale(place.wall_m)
    x_m = (columns - WIDTH_PX / 2) / scale
    up_m = camera.height_m - (rows - camera.horizon_px) / scale
    if place.kind == "street":
        _houses(canvas, rng, x_m, up_m, above)
    elif place.kind == "shop":
        _shelves(canvas, rng, x_m, up_m, above)
    else:
        _fence(canvas, rng, x_m, up_m, above)


def _houses(canvas: npt.NDArray[np.float32], rng: np.random.Generator, x_m: Plane, up_m: Plane, above: Mask) -> None:
    left_m = float(x_m[0, 0])
    while left_m < float(x_m[0, -1]):
        width_m, height_m = float(rng.uniform(5, 11)), float(rng.uniform(4, 11))
        house = above & (x_m >= left_m) & (x_m < left_m + width_m) & (up_m < height_m)
        canvas[house] = _pick(rng, _WALLS)
        pitch_m, floor_m = float(rng.uniform(1.6, 2.8)), float(rng.uniform(2.4, 3.2))
        across, up = _within(x_m - left_m, pitch_m) / pitch_m, _within(up_m, floor_m) / floor_m
        window = house & (across > 0.3) & (across < 0.7) & (up > 0.35) & (up < 0.8) & (up_m > floor_m)
        canvas[window] = _pick(rng, ((96, 84, 70), (70, 66, 60), (150, 160, 160)))
        door_m = left_m + float(rng.uniform(0.2, 0.7)) * width_m
        canvas[house & (x_m > door_m) & (x_m < door_m + 1.0) & (up_m < 2.1)] = _pick(rng, tuple(COLOURS.values()))
        shop = house & (x_m > door_m + 1.4) & (x_m < door_m + 3.8) & (up_m > 0.7) & (up_m < 2.2)
        canvas[shop] = _pick(rng, ((96, 84, 70), (150, 160, 150)))
        left_m += width_m


def _shelves(canvas: npt.NDArray[np.float32], rng: np.random.Generator, x_m: Plane, up_m: Plane, above: Mask) -> None:
    canvas[above] = _pick(rng, ((190, 200, 205), (200, 190, 180), (170, 185, 200)))
    top_m = float(rng.uniform(1.2, 2.3))
    left, right = sorted(float(rng.uniform(x_m[0, 0], x_m[0, -1])) for _ in range(2))
    rack = above & (x_m > left) & (x_m < right) & (up_m < top_m)
    goods_m = float(rng.uniform(0.16, 0.4))
    column = np.floor((x_m - left) / goods_m).astype(np.int64)
    shelf = np.floor(up_m / 0.42).astype(np.int64)
    palette = np.array(list(COLOURS.values()), np.float32)
    which = (column * 7 + shelf * 13 + column * shelf * 3) % len(palette)
    full = rack & (_within(up_m, 0.42) < 0.34) & (_within(x_m - left, goods_m) > 0.03)
    canvas[rack] = (90, 100, 110)
    canvas[full] = palette[which[full]] * 0.85
    lamps = above & (np.abs(up_m - 3.1) < 0.1) & _joints(x_m, 3.0, 1.2)
    canvas[lamps] = 250.0


def _fence(canvas: npt.NDArray[np.float32], rng: np.random.Generator, x_m: Plane, up_m: Plane, above: Mask) -> None:
    hall_m = float(rng.uniform(3.5, 8))
    edge_m = float(rng.uniform(x_m[0, 0], x_m[0, -1]))
    hall = above & (up_m < hall_m) & (x_m < edge_m)
    canvas[hall] = _pick(rng, _WALLS)
    canvas[hall & _joints(x_m, 0.4, 0.05)] *= 0.9
    gate_m = edge_m - float(rng.uniform(4, 8))
    gate = hall & (x_m > gate_m) & (x_m < gate_m + 3.2) & (up_m < 2.9)
    canvas[gate] = _pick(rng, tuple(COLOURS.values()))
    canvas[gate & _joints(up_m, 0.3, 0.05)] *= 0.8
    fence = above & ~hall & (up_m < float(rng.uniform(1.4, 2.4)))
    canvas[fence] = _pick(rng, ((96, 116, 140), (120, 125, 125), (80, 110, 80)))
    canvas[fence & _joints(x_m, float(rng.uniform(0.2, 2.0)), 0.06)] *= 0.7
