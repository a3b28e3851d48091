"""What happens in a scene: pieces of story for a cast. Each gives its actors all their keyframes."""

import itertools
import math
from dataclasses import replace

from tests.world.actors import Actor, Keyframe
from tests.world.cast import Cast
from tests.world.places import FOREVER_S
from tests.world.things import CAR_LENGTH_M

QUEUE_GAP_M = 0.85
BEHIND_M = 0.2
"""A worn bag's distance from its owner's middle."""
PUT_DOWN_S = 1.0
TOWARDS = -math.pi / 2
"""Facing the camera, in radians."""


def walk(points: list[tuple[float, float]], start_s: float, speed_mps: float) -> list[Keyframe]:
    """Keyframes along points (x, z in metres) at one speed."""
    at_s, path = start_s, [Keyframe(start_s, *points[0], "walking")]
    for (x_m, z_m), (next_x_m, next_z_m) in itertools.pairwise(points):
        at_s += math.hypot(next_x_m - x_m, next_z_m - z_m) / speed_mps
        path.append(Keyframe(at_s, next_x_m, next_z_m, "walking"))
    return path


def stay(path: list[Keyframe], for_s: float, activity: str, facing: float | None = None) -> list[Keyframe]:
    """What was walked so far, then staying at its end."""
    last = path[-1]
    halt = Keyframe(last.at_s, last.x_m, last.z_m, activity, facing)
    return [*path[:-1], halt, Keyframe(last.at_s + for_s, last.x_m, last.z_m, "walking")]


def go_on(path: list[Keyframe], points: list[tuple[float, float]], speed_mps: float) -> list[Keyframe]:
    last = path[-1]
    return [*path[:-1], *walk([(last.x_m, last.z_m), *points], last.at_s, speed_mps)]


def _speed(cast: Cast) -> float:
    return float(cast.rng.uniform(0.9, 1.6))


def passer(cast: Cast, at_s: float) -> Actor:
    """Walks through, may stop on the way, may wear a backpack."""
    rng, side, speed = cast.rng, cast.side(), _speed(cast)
    (x_m, z_m), from_z, to_z = cast.spot(), cast.spot()[1], cast.spot()[1]
    path = walk([(cast.edge(from_z, side), from_z), (x_m, z_m)], at_s, speed)
    if rng.random() < 0.4:
        facing = TOWARDS + float(rng.normal(0, 0.9)) if rng.random() < 0.7 else None
        path = stay(path, float(rng.uniform(2, 7)), "standing", facing)
    away = side if rng.random() < 0.2 else -side
    actor = cast.person(go_on(path, [(cast.edge(to_z, away), to_z)], speed))
    if rng.random() < 0.3:
        cast.backpack([], actor)
    return actor


def meeting(cast: Cast, at_s: float, size: int) -> None:
    """People come from all sides, stand in a ring and part again."""
    rng, (x_m, z_m) = cast.rng, cast.spot(0.6)
    ring_m, ends_s = 0.35 + 0.13 * size, at_s + float(rng.uniform(9, 15))
    for number in range(size):
        angle = 2 * math.pi * (number + float(rng.uniform(-0.2, 0.2))) / size
        spot = (x_m + ring_m * math.cos(angle), max(z_m + ring_m * math.sin(angle), cast.place.near_m))
        side, speed, from_z = cast.side(), _speed(cast), cast.spot()[1]
        path = walk([(cast.edge(from_z, side), from_z), spot], at_s + float(rng.uniform(0, 2)), speed)
        stays_s = max(ends_s - path[-1].at_s, 1.5) + float(rng.uniform(0, 2))
        path = stay(path, stays_s, "meeting", angle + math.pi)
        actor = cast.person(go_on(path, [(cast.edge(from_z, cast.side()), from_z)], speed))
        if rng.random() < 0.2:
            cast.backpack([], actor)


def queue(cast: Cast, at_s: float, size: int) -> None:
    """All line up before the first is served; then the line moves up, one by one."""
    rng, side, (x_m, z_m) = cast.rng, cast.side(), cast.spot(0.5)
    slant, serve_s = float(rng.uniform(-0.25, 0.25)), float(rng.uniform(2.5, 4.5))
    opens_s = at_s + 5.0 + 1.2 * size
    slots = [(x_m + side * QUEUE_GAP_M * n, max(z_m + slant * n, cast.place.near_m)) for n in range(size)]
    facing = math.atan2(slots[0][1] - slots[-1][1], slots[0][0] - slots[-1][0])
    for number in range(size):
        path = _queue_up(cast, at_s + 1.2 * number, opens_s, slots[number], side, facing)
        for turn in range(number + 1):
            wait_s = opens_s + serve_s * (turn + 1) - path[-1].at_s
            path = stay(path, max(wait_s, 0.2), "queueing", facing)
            if turn < number:
                path = go_on(path, [slots[number - turn - 1]], 1.0)
        cast.person(go_on(path, [(cast.edge(z_m, -side), z_m)], 1.2))


def _queue_up(
    cast: Cast, at_s: float, opens_s: float, slot: tuple[float, float], side: int, facing: float
) -> list[Keyframe]:
    """Walks in just fast enough to be in line when the counter opens."""
    start = (cast.edge(slot[1], side), slot[1])
    path = walk([start, slot], at_s, max(1.2, abs(start[0] - slot[0]) / max(opens_s - at_s - 0.5, 0.5)))
    return stay(path, max(opens_s - path[-1].at_s, 0.1), "queueing", facing)


def loiterer(cast: Cast, at_s: float) -> Actor:
    """Paces around one spot for a long time."""
    rng, side, (x_m, z_m) = cast.rng, cast.side(), cast.spot(0.7)
    path = walk([(cast.edge(z_m, side), z_m), (x_m, z_m)], at_s, 1.2)
    for _ in range(int(rng.integers(3, 6))):
        path = stay(path, float(rng.uniform(2, 5)), "loitering", float(rng.uniform(-math.pi, math.pi)))
        path = go_on(path, [(x_m + float(rng.uniform(-0.8, 0.8)), z_m)], 0.7)
    return cast.person(go_on(path, [(cast.edge(z_m, side), z_m)], 1.2))


def left_bag(cast: Cast, at_s: float) -> Actor:
    """Someone puts a backpack down and goes away without it."""
    rng, side, speed, (x_m, z_m) = cast.rng, cast.side(), _speed(cast), cast.spot(0.7)
    path = stay(walk([(cast.edge(z_m, side), z_m), (x_m, z_m)], at_s, speed), 2.0, "standing")
    owner = cast.person(go_on(path, [(cast.edge(z_m, -side if rng.random() < 0.5 else side), z_m)], speed))
    return put_down(cast, owner, path[-1].at_s - 1.5, (x_m, z_m), side)


def put_down(
    cast: Cast, owner: Actor, at_s: float, spot: tuple[float, float], behind: int, top: str | None = None
) -> Actor:
    """The bag of someone who stands at a spot, back to the side `behind` (-1 or 1), sinks to the ground."""
    bag = cast.backpack([], owner, top)
    back_m, ground_m = spot[0] + behind * BEHIND_M, spot[0] + behind * 0.4
    path = (
        Keyframe(at_s, back_m, spot[1], "lying", None, worn_height(bag, owner)),
        Keyframe(at_s + PUT_DOWN_S, ground_m, spot[1] - 0.1, "lying", TOWARDS),
        Keyframe(FOREVER_S, ground_m, spot[1] - 0.1, "lying", TOWARDS),
    )
    return cast.replace(bag, replace(bag, path=path))


def worn_height(bag: Actor, owner: Actor) -> float:
    """How far a worn bag hangs above the ground, in metres."""
    return (1.44 - bag.height_m) * owner.height_m / 1.75


def lying_bag(cast: Cast) -> Actor:
    """A backpack that has been there all the time."""
    x_m, z_m = cast.spot()
    facing = float(cast.rng.uniform(-math.pi, math.pi))
    return cast.backpack([Keyframe(0, x_m, z_m, "lying", facing), Keyframe(FOREVER_S, x_m, z_m, "lying")], None)


def driver(cast: Cast, at_s: float) -> Actor:
    """A car goes through, along the road."""
    start_m, end_m = cast.place.road_m or (0.0, 0.0)
    side, z_m = cast.side(), float(cast.rng.uniform(start_m + 0.5, end_m))
    x_m = cast.place.camera.half_width_m(z_m) + CAR_LENGTH_M / 2 + 0.5
    return cast.car(walk([(side * x_m, z_m), (-side * x_m, z_m)], at_s, float(cast.rng.uniform(2.5, 8))))


def parked_car(cast: Cast) -> Actor:
    start_m, end_m = cast.place.road_m or (0.0, 0.0)
    z_m = float(cast.rng.choice((start_m + 0.3, end_m)))
    x_m = float(cast.rng.uniform(-1, 1)) * cast.place.camera.half_width_m(z_m)
    facing = float(cast.rng.choice((0.0, math.pi, math.pi / 2, TOWARDS)))
    return cast.car([Keyframe(0, x_m, z_m, "parked", facing), Keyframe(FOREVER_S, x_m, z_m, "parked")])


def random_story(cast: Cast, duration_s: float) -> None:
    """A random choice of pieces; some scenes stay nearly empty."""
    rng = cast.rng
    for _ in range(int(rng.choice((0, 1, 2, 3, 5, 7)))):
        passer(cast, float(rng.uniform(-6, 0.8 * duration_s)))
    starts_s = float(rng.uniform(-2, 3))
    if rng.random() < 0.28:
        meeting(cast, starts_s, int(rng.integers(2, 8)))
    if rng.random() < 0.2:
        queue(cast, starts_s, int(rng.integers(3, 6)))
    if rng.random() < 0.2:
        loiterer(cast, starts_s)
    if rng.random() < 0.25:
        left_bag(cast, starts_s)
    for _ in range(int(rng.choice((0, 0, 1, 2)))):
        lying_bag(cast)
    if cast.place.road_m is not None:
        for _ in range(int(rng.choice((0, 0, 1, 2)))):
            driver(cast, float(rng.uniform(0, 0.8 * duration_s)))
        for _ in range(int(rng.choice((0, 0, 1, 2)))):
            parked_car(cast)
