"""The cast of a scene: gives each actor its number and its look, and knows where in the place it can go."""

import numpy as np

from tests.world.actors import COLOURS, HAIRS, SKINS, Actor, Keyframe, Look
from tests.world.places import Place


class Cast:
    """Collects the actors of a scene and gives each its id, from 1 upwards."""

    def __init__(self, place: Place, rng: np.random.Generator) -> None:
        self.place = place
        self.rng = rng
        self._actors: list[Actor] = []

    @property
    def actors(self) -> tuple[Actor, ...]:
        return tuple(self._actors)

    def person(self, path: list[Keyframe], look: Look | None = None, height_m: float | None = None) -> Actor:
        tall_m = height_m or float(np.clip(self.rng.normal(1.7, 0.11), 1.2, 1.95))
        return self._add("person", tall_m, look or random_look(self.rng), path, None)

    def backpack(self, path: list[Keyframe], owner: Actor | None, top: str | None = None) -> Actor:
        """Before and after its own path a bag goes on its owner's back."""
        colour = top or str(self.rng.choice(list(COLOURS)))
        look = Look(top=colour, shade=float(self.rng.uniform(0.8, 1.2)), width=float(self.rng.uniform(0.9, 1.2)))
        tall_m = float(self.rng.uniform(0.48, 0.66))
        return self._add("backpack", tall_m, look, path, None if owner is None else owner.id)

    def car(self, path: list[Keyframe], top: str | None = None, shape: str | None = None) -> Actor:
        look = Look(
            top=top or str(self.rng.choice(list(COLOURS))),
            shade=float(self.rng.uniform(0.8, 1.2)),
            shape=shape or str(self.rng.choice(("sedan", "hatch", "van"))),
        )
        return self._add("car", 1.95 if look.shape == "van" else 1.5, look, path, None)

    def _add(self, label: str, tall_m: float, look: Look, path: list[Keyframe], owner: int | None) -> Actor:
        actor = Actor(len(self._actors) + 1, label, tall_m, look, tuple(path), owner)
        self._actors.append(actor)
        return actor

    def replace(self, actor: Actor, changed: Actor) -> Actor:
        self._actors[actor.id - 1] = changed
        return changed

    def spot(self, margin: float = 0.85) -> tuple[float, float]:
        """Somewhere in view, x and z in metres; near and far places are equally likely in the picture."""
        near, far = 1 / self.place.near_m, 1 / self.place.far_m
        z_m = 1 / float(self.rng.uniform(far, near))
        return float(self.rng.uniform(-margin, margin)) * self.place.camera.half_width_m(z_m), z_m

    def edge(self, z_m: float, side: int) -> float:
        """An x just out of view."""
        return side * (self.place.camera.half_width_m(z_m) + 0.9)

    def side(self) -> int:
        return 1 if self.rng.random() < 0.5 else -1


def random_look(rng: np.random.Generator) -> Look:
    names = list(COLOURS)
    dark = ("black", "blue", "grey", "brown")
    return Look(
        top=str(rng.choice(names)),
        bottom=str(rng.choice(dark if rng.random() < 0.7 else names)),
        hat=str(rng.choice(names)) if rng.random() < 0.2 else None,
        garment=str(rng.choice(("trousers", "trousers", "trousers", "coat", "skirt"))),
        stripes=bool(rng.random() < 0.2),
        long_hair=bool(rng.random() < 0.35),
        skin=int(rng.integers(len(SKINS))),
        hair=int(rng.integers(len(HAIRS))),
        shade=float(rng.uniform(0.75, 1.25)),
        width=float(rng.uniform(0.88, 1.22)),
    )
