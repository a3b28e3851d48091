"""A scene: a place, its actors with all that they will do, and the light.

It knows no pixels, and the seed decides everything.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from tests.world.actors import Actor, State, state_at
from tests.world.cast import Cast
from tests.world.places import Place, random_place
from tests.world.stories import BEHIND_M, random_story, worn_height


@dataclass(frozen=True, slots=True)
class Light:
    """`level` 1 is day, 0.2 night with lamps; `warmth` above 0 is yellowish."""

    at_s: float
    level: float
    warmth: float = 0.0


@dataclass(frozen=True, slots=True)
class Film:
    """How the camera spoils the picture: noise (standard deviation in grey levels, in full light), blur,
    and motion blur (share of a frame at 15 frames/s during which it is open)."""

    noise: float
    blur_px: float
    shutter: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything at any time within 0 to `duration_s`."""

    seed: int
    place: Place
    actors: tuple[Actor, ...]
    lights: tuple[Light, ...]
    film: Film
    duration_s: float

    def at(self, at_s: float) -> tuple[State, ...]:
        """Actors and props from the farthest to the nearest."""
        found = {actor.id: state_at(actor, at_s) for actor in self.actors + self.place.props}
        for actor in self.actors:
            if actor.owner is not None and found[actor.id] is None:
                found[actor.id] = _worn(actor, found[actor.owner])
        present = [state for state in found.values() if state is not None]
        return tuple(sorted(present, key=lambda state: -(state.z_m + state.sort_m)))

    def light(self, at_s: float) -> Light:
        for before, after in pairwise(self.lights):
            if at_s <= after.at_s:
                share = min(max((at_s - before.at_s) / max(after.at_s - before.at_s, 1e-6), 0.0), 1.0)
                level = before.level + share * (after.level - before.level)
                return Light(at_s, level, before.warmth + share * (after.warmth - before.warmth))
        return self.lights[-1]


def _worn(bag: Actor, owner: State | None) -> State | None:
    """A bag that isn't lying about goes on its owner's back."""
    if owner is None:
        return None
    away = math.sin(owner.facing)
    return replace(
        owner,
        actor=bag,
        x_m=owner.x_m - BEHIND_M * math.cos(owner.facing),
        up_m=worn_height(bag, owner.actor),
        activity="worn",
        sort_m=0.02 if away < 0.15 else -0.02,
    )


def random_scene(seed: int, duration_s: float = 20.0, kind: str | None = None) -> Scene:
    rng = np.random.default_rng([seed, 0])
    place = random_place(rng, kind)
    cast = Cast(place, rng)
    random_story(cast, duration_s)
    film = Film(
        noise=float(rng.gamma(2.0, 2.0)),
        blur_px=float(rng.choice((0.0, 0.0, 0.5, 0.8, 1.1))),
        shutter=float(rng.uniform(0, 0.6)),
    )
    return Scene(seed, place, cast.actors, _random_lights(rng, duration_s), film, duration_s)


def _random_lights(rng: np.random.Generator, duration_s: float) -> tuple[Light, ...]:
    """Day, dusk or night; one scene in three changes, slowly or at a switch."""
    first = Light(0.0, random_level(rng), float(rng.normal(0, 0.06)))
    if rng.random() > 0.33:
        return (first,)
    turn_s, takes_s = float(rng.uniform(0.3, 0.6)) * duration_s, float(rng.choice((0.1, 6.0)))
    second = Light(turn_s + takes_s, random_level(rng), float(rng.normal(0, 0.06)))
    return (first, replace(first, at_s=turn_s), second)


def random_level(rng: np.random.Generator) -> float:
    low, high = ((0.8, 1.15), (0.8, 1.15), (0.4, 0.7), (0.22, 0.35))[int(rng.integers(4))]
    return float(rng.uniform(low, high))


def frame_times(duration_s: float, fps: float) -> Sequence[float]:
    """Times of a clip's frames, in seconds."""
    return [number / fps for number in range(round(duration_s * fps))]
