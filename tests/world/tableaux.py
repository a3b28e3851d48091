"""Arrangements of people, cars and bags at one moment: what a model that answers questions is taught and examined
with. Unlike the stories, they are spread evenly over what is asked about.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.world.actors import Keyframe
from tests.world.backgrounds import background
from tests.world.cast import Cast
from tests.world.people import FALLEN
from tests.world.places import FOREVER_S, MOST_PROPS, Place, random_place, with_props
from tests.world.render import Frame, Renderer, Seen
from tests.world.scene import Film, Light, Scene, random_level
from tests.world.stories import QUEUE_GAP_M, driver, lying_bag, parked_car

PEOPLE_MAX = 6
SMALLEST_PX = 80.0
"""Height in the picture of an average person at the far end: what is smaller, a small model does not see."""
CLEAR = 0.5
"""Share of a figure that has to be seen of it to be asked about it."""
CLEAR_WIDTH_PX, CLEAR_HEIGHT_PX = 12, 24
"""And how large that has to be: a model that sees 168 px of a picture's width of 640 has 3 px of it then."""
EACH = 5
"""Tableaux in the same place, with other things standing about."""
AT_S = 10.0
"""The moment that is drawn."""
HIDDEN = 0.1
"""Who sees less of a figure than this share doesn't know that it is there, and nobody is asked about it."""
_NEIGHBOUR_M = 2.2
_TRIES = 12


@dataclass(frozen=True, slots=True)
class Tableau:
    """A drawn moment and what is meant by it. `formation` is how the people stand, where that is one thing and they
    are at least three: queue, group or scattered."""

    scene: Scene
    frame: Frame
    formation: str

    def seen(self, label: str) -> list[Seen]:
        """From left to right."""
        found = [one for one in self.frame.seen if one.state.actor.label == label and one.visible >= HIDDEN]
        return sorted(found, key=lambda one: one.box[0] + one.box[2])

    def is_clear(self, label: str) -> bool:
        """Whether each of that kind is either clear to see, or not at all."""
        return all(_is_clear(one) for one in self.seen(label))


def _is_clear(one: Seen) -> bool:
    x_min, y_min, x_max, y_max = one.box
    return one.visible >= CLEAR and x_max - x_min >= CLEAR_WIDTH_PX and y_max - y_min >= CLEAR_HEIGHT_PX


def tableaux(seed: int) -> Iterator[Tableau]:
    """Some in one place. Those in which people hide each other are left out."""
    rng = np.random.default_rng([seed, 6])
    place = random_place(rng, smallest_px=SMALLEST_PX)
    empty = background(place)
    for number in range(EACH):
        people = int(rng.integers(PEOPLE_MAX + 1))
        here = with_props(place, rng, int(rng.integers(MOST_PROPS + 1)))
        for attempt in range(_TRIES):
            tableau = _drawn(seed * 1000 + number * _TRIES + attempt, here, empty, people)
            if tableau and tableau.is_clear("person") and len(tableau.seen("person")) == people:
                yield tableau
                break


def _drawn(
    seed: int, place: Place, empty: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], people: int
) -> Tableau | None:
    rng = np.random.default_rng([seed, 7])
    cast = Cast(place, rng)
    formation = _people(cast, people)
    if formation is None:
        return None
    _things(cast)
    light = Light(0.0, random_level(rng), float(rng.normal(0, 0.06)))
    film = Film(
        noise=float(rng.gamma(2.0, 2.0)),
        blur_px=float(rng.choice((0.0, 0.0, 0.5, 0.8))),
        shutter=float(rng.uniform(0, 0.5)),
    )
    scene = Scene(seed, place, cast.actors, (light,), film, 2 * AT_S)
    return Tableau(scene, Renderer(scene, empty).frame(AT_S), formation)


def _people(cast: Cast, count: int) -> str | None:
    """Their formation, "" where it is none that has a name; None where they find no room."""
    rng = cast.rng
    fallen = int(count > 0 and rng.random() < 0.35)
    upright = count - fallen
    formation = str(rng.choice(("queue", "group", "scattered"))) if upright >= 3 else "scattered"
    spots = {"queue": _queue, "group": _group, "scattered": _scattered}[formation](cast, upright)
    spots = spots and _with_fallen(cast, spots, fallen) if fallen and upright else spots
    if fallen and not upright:
        spots = [_Spot(*cast.spot(0.7), FALLEN, float(rng.uniform(-math.pi, math.pi)))]
    if spots is None:
        return None
    for spot in spots:
        actor = cast.person(spot.path(rng))
        if spot.activity != FALLEN and rng.random() < 0.25:
            cast.backpack([], actor)
    return formation if upright >= 3 else ""


@dataclass(frozen=True, slots=True)
class _Spot:
    x_m: float
    z_m: float
    activity: str
    facing: float | None

    def path(self, rng: np.random.Generator) -> list[Keyframe]:
        """Who walks is here at the moment that is drawn."""
        if self.activity != "walking":
            here = Keyframe(0.0, self.x_m, self.z_m, self.activity, self.facing)
            return [here, Keyframe(FOREVER_S, self.x_m, self.z_m, self.activity, self.facing)]
        speed_mps, towards = float(rng.uniform(0.8, 1.6)), float(rng.uniform(-math.pi, math.pi))
        step_m = speed_mps * AT_S
        dx_m, dz_m = step_m * math.cos(towards), 0.15 * step_m * math.sin(towards)
        start = Keyframe(0.0, self.x_m - dx_m, self.z_m - dz_m, "walking")
        return [start, Keyframe(2 * AT_S, self.x_m + dx_m, self.z_m + dz_m, "walking")]

    def apart_m(self, other: "_Spot") -> float:
        return math.hypot(self.x_m - other.x_m, self.z_m - other.z_m)


def _queue(cast: Cast, count: int) -> list[_Spot] | None:
    rng, side, (_, z_m) = cast.rng, cast.side(), cast.spot()
    gap_m, slant = QUEUE_GAP_M * float(rng.uniform(0.9, 1.2)), float(rng.uniform(-0.2, 0.2))
    free_m = 0.85 * cast.place.camera.half_width_m(z_m) - (count - 1) * gap_m / 2
    if free_m < 0:
        return None
    middle_m = float(rng.uniform(-free_m, free_m))
    facing = 0.0 if side < 0 else math.pi
    return [
        _Spot(
            middle_m + side * gap_m * (n - (count - 1) / 2),
            max(z_m + slant * n, cast.place.near_m),
            "queueing",
            facing + float(rng.normal(0, 0.15)),
        )
        for n in range(count)
    ]


def _group(cast: Cast, count: int) -> list[_Spot]:
    rng, (x_m, z_m) = cast.rng, cast.spot(0.6)
    ring_m, turn = 0.6 + 0.18 * count, float(rng.uniform(0, 2 * math.pi))
    z_m = max(z_m, cast.place.near_m + ring_m)
    spots = []
    for number in range(count):
        angle = turn + 2 * math.pi * (number + float(rng.uniform(-0.15, 0.15))) / count
        spot = (x_m + ring_m * math.cos(angle), z_m + ring_m * math.sin(angle))
        spots.append(_Spot(*spot, "meeting", angle + math.pi))
    return spots


def _scattered(cast: Cast, count: int) -> list[_Spot] | None:
    """Each far from the next one."""
    spots: list[_Spot] = []
    for _ in range(40):
        if len(spots) == count:
            break
        activity = "walking" if cast.rng.random() < 0.6 else "standing"
        spot = _Spot(*cast.spot(), activity, float(cast.rng.uniform(-math.pi, math.pi)))
        if all(spot.apart_m(other) >= _NEIGHBOUR_M for other in spots):
            spots.append(spot)
    return spots if len(spots) == count else None


def _with_fallen(cast: Cast, spots: list[_Spot], count: int) -> list[_Spot] | None:
    for _ in range(40):
        fallen = _Spot(*cast.spot(0.7), FALLEN, float(cast.rng.uniform(-math.pi, math.pi)))
        if all(fallen.apart_m(other) >= _NEIGHBOUR_M for other in spots):
            return [*spots, fallen]
    return None


def _things(cast: Cast) -> None:
    rng = cast.rng
    for _ in range(int(rng.choice((0, 0, 0, 1, 1, 2)))):
        lying_bag(cast)
    if cast.place.road_m is None:
        return
    for _ in range(int(rng.choice((0, 0, 1, 1, 2)))):
        if rng.random() < 0.5:
            parked_car(cast)
        else:
            driver(cast, AT_S - float(rng.uniform(1.0, 4.0)))
