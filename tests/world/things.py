"""How cars, backpacks and the props of a place are drawn."""

import math
from collections.abc import Callable, Mapping

from tests.world.actors import Colour, Look, State
from tests.world.camera import Camera
from tests.world.canvas import Canvas, Patch, Point, tinted, toned

BODY, DARK, GLASS, TYRE, RIM, FRONT_LIGHT, REAR_LIGHT, LIGHT_SIDE = range(1, 9)
CAR_LENGTH_M = 4.3
GLASSES: Colour = (92, 80, 66)
_HULLS: Mapping[str, tuple[Point, ...]] = {
    "sedan": (
        (-2.1, 0.3),
        (2.1, 0.3),
        (2.13, 0.62),
        (1.85, 0.86),
        (1.0, 0.95),
        (0.35, 1.42),
        (-0.95, 1.44),
        (-1.6, 0.98),
        (-2.1, 0.9),
    ),
    "hatch": (
        (-1.95, 0.3),
        (1.95, 0.3),
        (2.0, 0.66),
        (1.65, 0.92),
        (0.95, 1.02),
        (0.3, 1.5),
        (-1.4, 1.52),
        (-1.9, 1.0),
    ),
    "van": ((-2.1, 0.3), (2.15, 0.3), (2.15, 0.8), (1.95, 1.05), (1.4, 1.2), (0.95, 1.92), (-2.05, 1.95)),
}
_PANES: Mapping[str, tuple[tuple[Point, ...], ...]] = {
    "sedan": (
        ((0.8, 0.97), (0.28, 1.34), (-0.2, 1.35), (-0.2, 0.97)),
        ((-0.3, 0.97), (-0.3, 1.35), (-0.9, 1.35), (-1.35, 0.98)),
    ),
    "hatch": (
        ((0.75, 1.03), (0.25, 1.41), (-0.25, 1.42), (-0.25, 1.03)),
        ((-0.35, 1.03), (-0.35, 1.42), (-1.3, 1.42), (-1.5, 1.03)),
    ),
    "van": (((1.25, 1.22), (0.85, 1.78), (0.35, 1.8), (0.35, 1.22)),),
}


def car(state: State, camera: Camera) -> Patch:
    """From the side when it goes across the picture, else from the front or the back."""
    scale = camera.scale(state.z_m)
    canvas = Canvas(camera.project(state.x_m, state.z_m), scale, half_width_m=2.35, height_m=2.05)
    if abs(math.cos(state.facing)) > 0.7:
        _car_side(canvas, state.actor.look, 1 if math.cos(state.facing) > 0 else -1)
    else:
        _car_end(canvas, state.actor.look, front=math.sin(state.facing) < 0)
    return canvas.colour(palette(state.actor.look))


def palette(look: Look) -> list[Colour]:
    body = tinted(look.top, look.shade)
    return [
        body,
        toned(body, 0.7),
        GLASSES,
        (26, 26, 28),
        (150, 150, 152),
        (205, 235, 240),
        (40, 40, 190),
        toned(body, 1.25),
    ]


def _car_side(canvas: Canvas, look: Look, ahead: int) -> None:
    def turned(points: tuple[Point, ...]) -> list[Point]:
        return [(x * ahead, y) for x, y in points]

    canvas.polygon(turned(_HULLS[look.shape]), BODY)
    canvas.polygon(turned(((-2.05, 0.3), (2.08, 0.3), (2.1, 0.5), (-2.08, 0.5))), DARK)
    for pane in _PANES[look.shape]:
        canvas.polygon(turned(pane), GLASS)
    canvas.polygon(turned(((-0.27, 0.55), (-0.24, 0.55), (-0.24, 0.97), (-0.27, 0.97))), DARK)
    for x_m in (1.3, -1.3):
        canvas.disc((x_m * ahead, 0.33), 0.33, TYRE)
        canvas.disc((x_m * ahead, 0.33), 0.19, RIM)
    canvas.oval((1.95 * ahead, 0.7), 0.1, 0.08, FRONT_LIGHT)
    canvas.oval((-1.95 * ahead, 0.78), 0.08, 0.09, REAR_LIGHT)


def _car_end(canvas: Canvas, look: Look, front: bool) -> None:
    top_m = 1.95 if look.shape == "van" else 1.46
    canvas.box(-0.8, 0.0, -0.55, 0.5, TYRE)
    canvas.box(0.55, 0.0, 0.8, 0.5, TYRE)
    canvas.polygon([(-0.88, 0.28), (0.88, 0.28), (0.9, 0.9), (0.62, top_m), (-0.62, top_m), (-0.9, 0.9)], BODY)
    canvas.polygon([(-0.76, 0.94), (0.76, 0.94), (0.56, top_m - 0.08), (-0.56, top_m - 0.08)], GLASS)
    canvas.box(-0.86, 0.28, 0.86, 0.45, DARK)
    canvas.box(-0.3, 0.45, 0.3, 0.57, RIM)
    for x_m in (-0.68, 0.68):
        canvas.oval((x_m, 0.7), 0.15, 0.08, FRONT_LIGHT if front else REAR_LIGHT)


def backpack(state: State, camera: Camera) -> Patch:
    """Lying bags show their broad side; a worn one shows what the wearer's angle lets one see."""
    scale = camera.scale(state.z_m)
    foot_px = camera.project(state.x_m, state.z_m, state.up_m)
    canvas = Canvas(foot_px, scale, half_width_m=0.5, height_m=0.8)
    broad = math.hypot(math.sin(state.facing), 0.62 * math.cos(state.facing)) * state.actor.look.width
    half, tall = 0.22 * broad, state.actor.height_m
    canvas.limb((0, tall - 0.02), (0.03, tall + 0.02), 0.05, 0.04, DARK)
    canvas.polygon(
        [
            (-half, 0.03),
            (half, 0.03),
            (half * 1.04, tall * 0.6),
            (half * 0.7, tall),
            (-half * 0.7, tall),
            (-half * 1.04, tall * 0.6),
        ],
        BODY,
    )
    canvas.limb((-half * 0.85, 0.05), (half * 0.85, 0.05), 0.05, 0.05, BODY)
    canvas.box(-half * 0.72, 0.05, half * 0.72, tall * 0.45, LIGHT_SIDE)
    canvas.limb((-half * 0.72, tall * 0.45), (half * 0.72, tall * 0.45), 0.014, 0.014, DARK)
    canvas.limb((-half * 0.6, tall * 0.72), (half * 0.6, tall * 0.72), 0.014, 0.014, DARK)
    return canvas.colour(palette(state.actor.look))


def prop(state: State, camera: Camera) -> Patch:
    look, height_m = state.actor.look, state.actor.height_m
    foot_px = camera.project(state.x_m, state.z_m)
    canvas = Canvas(foot_px, camera.scale(state.z_m), half_width_m=2.0 * look.width, height_m=height_m + 0.2)
    _PROPS[look.shape](canvas, height_m, look.width)
    return canvas.colour(palette(look))


def _post(canvas: Canvas, height_m: float, width: float) -> None:
    canvas.box(-0.07 * width, 0, 0.07 * width, height_m, BODY)
    canvas.box(0.02 * width, 0, 0.07 * width, height_m, DARK)
    canvas.limb((-0.35, height_m), (0.35, height_m), 0.06, 0.06, DARK)


def _tree(canvas: Canvas, height_m: float, width: float) -> None:
    canvas.limb((0, 0), (0.05, height_m * 0.6), 0.14 * width, 0.09 * width, TYRE)
    for x_m, up, radius, part in (
        (-0.5, 0.62, 0.6, DARK),
        (0.5, 0.66, 0.62, BODY),
        (0.0, 0.82, 0.7, BODY),
        (0.2, 0.78, 0.3, LIGHT_SIDE),
    ):
        canvas.disc((x_m * width, height_m * up), radius * width, part)


def _crate(canvas: Canvas, height_m: float, width: float) -> None:
    canvas.box(-0.6 * width, 0, 0.6 * width, height_m, BODY)
    canvas.box(-0.6 * width, height_m * 0.9, 0.6 * width, height_m, LIGHT_SIDE)
    for x_m in (-0.3, 0.0, 0.3):
        canvas.box((x_m - 0.015) * width, 0, (x_m + 0.015) * width, height_m * 0.9, DARK)


def _bin(canvas: Canvas, height_m: float, width: float) -> None:
    canvas.polygon([(-0.22 * width, 0), (0.22 * width, 0), (0.28 * width, height_m), (-0.28 * width, height_m)], BODY)
    canvas.oval((0, height_m), 0.29 * width, 0.06, DARK)


def _plant(canvas: Canvas, height_m: float, width: float) -> None:
    canvas.polygon([(-0.18, 0), (0.18, 0), (0.24, height_m * 0.35), (-0.24, height_m * 0.35)], TYRE)
    for lean in (-0.5, -0.22, 0.0, 0.25, 0.5):
        canvas.limb(
            (0, height_m * 0.3),
            (lean * width, height_m * (1 - 0.4 * abs(lean))),
            0.05,
            0.1,
            BODY if lean > 0 else DARK,
        )


_PROPS: Mapping[str, Callable[[Canvas, float, float], None]] = {
    "post": _post,
    "tree": _tree,
    "crate": _crate,
    "bin": _bin,
    "plant": _plant,
}
