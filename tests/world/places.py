"""Where scenes play: the camera's view, the ground that can be walked on, and the props that hide people."""

from dataclasses import dataclass, replace

import numpy as np

from tests.world.actors import Actor, Keyframe, Look
from tests.world.camera import HEIGHT_PX, Camera

KINDS = ("street", "shop", "yard")
TALLEST_PX = 225
SMALLEST_PX = 27
"""People stay where they are between these heights in the picture."""
FOREVER_S = 1e9
MOST_PROPS = 4
_PROP_LOOKS = {
    "post": (("grey", "black"), (2.6, 3.4), (0.8, 1.6)),
    "tree": (("green",), (3.0, 5.0), (0.8, 1.4)),
    "crate": (("brown", "grey", "blue", "orange"), (0.5, 1.1), (0.6, 1.3)),
    "bin": (("green", "grey", "black", "blue"), (0.7, 1.1), (0.8, 1.3)),
    "plant": (("green",), (0.8, 1.5), (0.8, 1.3)),
}
_PROPS_OF = {
    "street": ("post", "tree", "bin"),
    "shop": ("crate", "plant", "bin"),
    "yard": ("crate", "post", "bin", "tree"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """`near_m` to `far_m` is the depth where people may stand; a road lies across the picture."""

    kind: str
    camera: Camera
    wall_m: float
    near_m: float
    far_m: float
    road_m: tuple[float, float] | None
    texture_seed: int
    props: tuple[Actor, ...] = ()


def random_place(rng: np.random.Generator, kind: str | None = None, smallest_px: float = SMALLEST_PX) -> Place:
    kind = kind or str(rng.choice(KINDS))
    indoors = kind == "shop"
    camera = Camera(
        focal_px=float(rng.uniform(330, 600)),
        height_m=float(rng.uniform(2.1, 3.2) if indoors else rng.uniform(2.1, 4.6)),
        horizon_px=float(rng.uniform(50, 130)),
    )
    return make_place(camera, kind, rng, smallest_px=smallest_px)


def make_place(
    camera: Camera,
    kind: str,
    rng: np.random.Generator,
    prop_count: int | None = None,
    smallest_px: float = SMALLEST_PX,
) -> Place:
    """The rest of a place around a camera; `rng` decides about road and props."""
    farthest_m = 1.7 * camera.focal_px / smallest_px
    wall_m = float(rng.uniform(9, 16) if kind == "shop" else rng.uniform(17, 34))
    wall_m = min(wall_m, farthest_m + 1)
    near_m = max(camera.depth(HEIGHT_PX + 40), 1.75 * camera.focal_px / TALLEST_PX)
    far_m = max(wall_m - 0.8, near_m + 1.5)
    road_m = None if kind == "shop" else _road(rng, near_m, far_m)
    texture_seed = int(rng.integers(1 << 31))
    count = int(rng.integers(MOST_PROPS + 1)) if prop_count is None else prop_count
    return with_props(Place(kind, camera, far_m + 0.8, near_m, far_m, road_m, texture_seed), rng, count)


def with_props(place: Place, rng: np.random.Generator, count: int) -> Place:
    """The same place with other things standing about."""
    return replace(place, props=tuple(_prop(rng, place, -1 - number) for number in range(count)))


def _road(rng: np.random.Generator, near_m: float, far_m: float) -> tuple[float, float]:
    start_m = near_m + float(rng.uniform(0.2, 0.6)) * (far_m - near_m)
    return start_m, min(start_m + float(rng.uniform(3.5, 6.5)), far_m)


def _prop(rng: np.random.Generator, place: Place, number: int) -> Actor:
    """Props have negative ids, and none stands on the road."""
    shape = str(rng.choice(_PROPS_OF[place.kind]))
    colours, heights_m, widths = _PROP_LOOKS[shape]
    z_m = float(rng.uniform(place.near_m, place.far_m))
    if place.road_m is not None and place.road_m[0] - 0.6 < z_m < place.road_m[1] + 0.6:
        z_m = place.road_m[0] - 0.8
    x_m = float(rng.uniform(-1, 1)) * place.camera.half_width_m(z_m)
    look = Look(
        top=str(rng.choice(colours)),
        shade=float(rng.uniform(0.6, 1.1)),
        shape=shape,
        width=float(rng.uniform(*widths)),
    )
    path = (Keyframe(0.0, x_m, z_m, "standing"), Keyframe(FOREVER_S, x_m, z_m, "standing"))
    return Actor(number, "prop", float(rng.uniform(*heights_m)), look, path)
