"""Who takes part in a scene, what they look like and where they are at a given time."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

Colour = tuple[int, int, int]
"""Blue, green, red; 0 to 255, as OpenCV has it."""

COLOURS: Mapping[str, Colour] = {
    "black": (32, 30, 30),
    "white": (232, 232, 230),
    "grey": (132, 130, 128),
    "red": (40, 36, 196),
    "orange": (28, 122, 232),
    "yellow": (50, 205, 232),
    "green": (64, 140, 48),
    "blue": (178, 88, 36),
    "purple": (140, 48, 118),
    "brown": (42, 74, 112),
    "pink": (178, 132, 236),
}
SKINS: tuple[Colour, ...] = ((170, 196, 232), (140, 172, 216), (104, 140, 190), (66, 96, 146), (44, 62, 98))
HAIRS: tuple[Colour, ...] = ((24, 26, 30), (36, 52, 80), (70, 130, 180), (150, 155, 160), (40, 70, 130))
STRIDE_M = 1.45
"""Two steps of a person of average height."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an actor looks like. Names are keys of COLOURS; what doesn't apply keeps its default."""

    top: str = "grey"
    """Shirt or coat of a person, body of a car or of a bag."""
    bottom: str = "black"
    hat: str | None = None
    garment: str = "trousers"
    """trousers, skirt or coat."""
    stripes: bool = False
    long_hair: bool = False
    skin: int = 0
    hair: int = 0
    shade: float = 1.0
    """Factor on all colours, so that two reds differ."""
    shape: str = ""
    """Kind of car (sedan, hatch, van) or of prop (post, tree, ...)."""
    width: float = 1.0
    """Factor on the figure's breadth."""


@dataclass(frozen=True, slots=True)
class Keyframe:
    """Where an actor is at a time, and what it does from then until the next keyframe."""

    at_s: float
    x_m: float
    z_m: float
    activity: str
    facing: float | None = None
    """Radians: 0 looks right, pi/2 away from the camera. None looks where it goes."""
    up_m: float = 0.0
    """Above the ground: a bag that is being put down."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One thing with one identity. `id` is unique in its scene; a backpack names its owner."""

    id: int
    label: str
    """person, car or backpack, as in COCO; props, which only hide others, have the label prop."""
    height_m: float
    look: Look
    path: tuple[Keyframe, ...]
    owner: int | None = None


@dataclass(frozen=True, slots=True)
class State:
    """An actor at one time."""

    actor: Actor
    x_m: float
    z_m: float
    up_m: float
    facing: float
    speed_mps: float
    walked_m: float
    activity: str
    sort_m: float = field(default=0.0)
    """Added to the depth when deciding who stands before whom: a bag is worn on the far or the near side."""


def state_at(actor: Actor, at_s: float) -> State | None:
    """None before the first and after the last keyframe."""
    if not actor.path or not actor.path[0].at_s <= at_s <= actor.path[-1].at_s:
        return None
    walked_m, facing = 0.0, 0.0
    for here, there in pairwise(actor.path):
        length_m = math.hypot(there.x_m - here.x_m, there.z_m - here.z_m)
        if length_m > 0.05:
            facing = math.atan2(there.z_m - here.z_m, there.x_m - here.x_m)
        if at_s <= there.at_s:
            return _between(actor, here, there, at_s, walked_m, facing)
        walked_m += length_m
    return None


def _between(actor: Actor, here: Keyframe, there: Keyframe, at_s: float, walked_m: float, facing: float) -> State:
    span_s = max(there.at_s - here.at_s, 1e-6)
    share = min(max((at_s - here.at_s) / span_s, 0.0), 1.0)
    length_m = math.hypot(there.x_m - here.x_m, there.z_m - here.z_m)
    return State(
        actor=actor,
        x_m=here.x_m + share * (there.x_m - here.x_m),
        z_m=here.z_m + share * (there.z_m - here.z_m),
        up_m=here.up_m + share * (there.up_m - here.up_m),
        facing=facing if here.facing is None else here.facing,
        speed_mps=length_m / span_s,
        walked_m=walked_m + share * length_m,
        activity=here.activity,
    )
