"""The story of the demo clip: people gather in a yard, a car passes, a bag stays behind, evening comes."""

import math

import numpy as np

from tests.world.actors import Actor, Keyframe, Look
from tests.world.camera import Camera
from tests.world.cast import Cast
from tests.world.places import FOREVER_S, Place
from tests.world.scene import Film, Light, Scene
from tests.world.stories import go_on, put_down, stay, walk

SEED = 20
TEXTURE_SEED = 44
DURATION_S = 28.0
FPS = 15.0
_CAMERA = Camera(focal_px=430.0, height_m=3.4, horizon_px=84.0)
_MEETING = (-0.3, 8.2)
"""x and z in metres of the middle of the meeting."""
_PARTS_S = 16.5
SLOW_M = 0.7
_GUESTS: tuple[tuple[float, int, float, tuple[float, float], Look], ...] = (
    (0.8, -1, 8.6, (0.1, 1.3), Look("red", "blue", None, "trousers", hair=1, skin=1)),
    (2.6, 1, 9.6, (0.75, 0.8), Look("blue", "black", None, "trousers", hair=0, skin=0, long_hair=True)),
    (4.4, -1, 9.8, (-0.6, 0.75), Look("yellow", "grey", "green", "trousers", skin=3)),
    (6.2, 1, 10.2, (1.25, -0.2), Look("green", "black", None, "coat", skin=0, hair=2)),
    (
        7.4,
        -1,
        7.4,
        (-1.2, -0.3),
        Look("white", "brown", None, "skirt", skin=2, hair=4, long_hair=True, stripes=True),
    ),
)
"""When and where each comes in (seconds, side, depth), where in the ring it stands, and its look."""


def yard_scene() -> Scene:
    cast = Cast(_yard(), np.random.default_rng(SEED))
    for number, (at_s, side, depth_m, slot, look) in enumerate(_GUESTS):
        _guest(cast, at_s, side, depth_m, slot, look, _PARTS_S + 0.6 * (len(_GUESTS) - number))
    _drive_through(cast)
    _leave_bag(cast)
    lights = (Light(0.0, 1.0), Light(19.0, 1.0), Light(26.0, 0.4, 0.06))
    return Scene(SEED, cast.place, cast.actors, lights, Film(noise=1.8, blur_px=0.45, shutter=0.25), DURATION_S)


def _yard() -> Place:
    props = (
        _prop(-1, "tree", "green", 4.2, -5.6, 15.5, 1.2),
        _prop(-2, "crate", "blue", 1.0, 6.6, 16.0, 1.2),
        _prop(-3, "crate", "brown", 0.8, 5.2, 16.3, 1.0),
        _prop(-4, "bin", "grey", 1.0, -3.6, 15.8, 1.0),
    )
    return Place("yard", _CAMERA, 17.5, 5.0, 16.5, (11.6, 14.8), TEXTURE_SEED, props)


def _prop(number: int, shape: str, top: str, height_m: float, x_m: float, z_m: float, width: float) -> Actor:
    path = (Keyframe(0.0, x_m, z_m, "standing"), Keyframe(FOREVER_S, x_m, z_m, "standing"))
    return Actor(number, "prop", height_m, Look(top=top, shape=shape, width=width, shade=0.85), path)


def _guest(
    cast: Cast, at_s: float, side: int, depth_m: float, slot: tuple[float, float], look: Look, leaves_s: float
) -> None:
    """Comes in, stands in the ring looking at its middle, and leaves where it came from."""
    spot = (_MEETING[0] + slot[0], _MEETING[1] + slot[1])
    door = (cast.edge(depth_m, side), depth_m)
    path = _come(door, spot, at_s, 1.45)
    path = stay(path, leaves_s - path[-1].at_s, "meeting", math.atan2(0.2 - slot[1], -slot[0]))
    cast.person(go_on(path, [door], 1.55), look, 1.74 - 0.06 * (look.garment == "skirt"))


def _come(door: tuple[float, float], spot: tuple[float, float], at_s: float, speed_mps: float) -> list[Keyframe]:
    """Walks up to a spot, slowing down before it."""
    share = 1 - SLOW_M / math.dist(door, spot)
    before = (door[0] + share * (spot[0] - door[0]), door[1] + share * (spot[1] - door[1]))
    return go_on(walk([door, before], at_s, speed_mps), [spot], speed_mps / 2)


def _drive_through(cast: Cast) -> None:
    z_m = 13.4
    x_m = cast.place.camera.half_width_m(z_m) + 2.8
    cast.car(walk([(-x_m, z_m), (x_m, z_m)], 9.2, 5.0), top="red", shape="hatch")


def _leave_bag(cast: Cast) -> None:
    """Comes from the right, puts the bag down and goes back without it."""
    spot = (2.9, 6.7)
    door = (cast.edge(spot[1], 1), spot[1])
    path = stay(_come(door, spot, 10.6, 1.2), 2.4, "standing")
    look = Look("purple", "black", "black", "trousers", skin=1)
    owner = cast.person(go_on(path, [door], 1.4), look, 1.78)
    put_down(cast, owner, path[-1].at_s - 1.8, spot, 1, top="orange")
