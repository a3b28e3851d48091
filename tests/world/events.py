"""What really happens in a scene, from its actors' true places: the measure for what a program reports."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.world.actors import State
from tests.world.render import Seen
from tests.world.stills import truth_of

CROWD = 4
"""People who make a crowd, when they stand this close to the next one, for this long."""
CROWD_GAP_M = 1.9
CROWD_S = 2.0
QUEUE = 3
LEFT_M = 3.0
"""A bag is left once its owner is this far away or out of the scene."""

Holds = Callable[[State, Sequence[State]], bool]
"""Whether something is true of an actor, given everybody present."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is true at one time: everybody present, and what can be seen."""

    at_s: float
    states: tuple[State, ...]
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class TrueEvent:
    """From the first to the last moment at which it holds; `ids` are all actors that took part."""

    kind: str
    start_s: float
    end_s: float
    ids: tuple[int, ...]


def true_events(moments: Sequence[Moment]) -> list[TrueEvent]:
    """in_view (one for each stay of an actor), crowd, queue, loitering, bag_left; by their start."""
    found = [
        *_in_view(moments),
        *_spans("crowd", moments, [_crowd(moment.states) for moment in moments], CROWD_S),
        *_spans("queue", moments, [_queue(moment.states) for moment in moments], CROWD_S),
        *_each("loitering", moments, lambda state, _: state.activity == "loitering", 8.0),
        *_each("bag_left", moments, _is_left, 1.0),
    ]
    return sorted(found, key=lambda event: (event.start_s, event.kind, event.ids))


def _in_view(moments: Sequence[Moment]) -> Iterable[TrueEvent]:
    """An actor is in view from the first to the last moment at which it is clear, gaps up to 2 s included."""
    clear = [{seen.state.actor.id for seen in moment.seen if truth_of(seen).clear} for moment in moments]
    for actor_id in sorted(set().union(*clear)):
        yield from _spans("in_view", moments, [{actor_id} & ids for ids in clear], 0.3, gap_s=2.0)


def _spans(
    kind: str, moments: Sequence[Moment], members: Sequence[set[int]], least_s: float, gap_s: float = 1.0
) -> list[TrueEvent]:
    """Stretches of moments with members, joined over short gaps, when they last long enough."""
    spans: list[tuple[float, float, set[int]]] = []
    for moment, ids in zip(moments, members, strict=True):
        if not ids:
            continue
        if spans and moment.at_s - spans[-1][1] <= gap_s:
            spans[-1] = (spans[-1][0], moment.at_s, spans[-1][2] | ids)
        else:
            spans.append((moment.at_s, moment.at_s, set(ids)))
    return [TrueEvent(kind, start, end, tuple(sorted(ids))) for start, end, ids in spans if end - start >= least_s]


def _each(kind: str, moments: Sequence[Moment], holds: Holds, least_s: float) -> Iterable[TrueEvent]:
    """One event for each actor for whom something holds."""
    true = [{state.actor.id for state in moment.states if holds(state, moment.states)} for moment in moments]
    for actor_id in sorted(set().union(*true)):
        yield from _spans(kind, moments, [{actor_id} & ids for ids in true], least_s, gap_s=3.0)


def _crowd(states: Sequence[State]) -> set[int]:
    """The largest group in which each stands near another, if it is a crowd."""
    people = {state.actor.id: state for state in states if state.actor.label == "person"}
    largest: set[int] = set()
    while people:
        group, fringe = set[int](), [people.popitem()[1]]
        while fringe:
            here = fringe.pop()
            group.add(here.actor.id)
            near = [other for other in people.values() if _apart_m(here, other) <= CROWD_GAP_M]
            fringe += [people.pop(other.actor.id) for other in near]
        largest = max(largest, group, key=len)
    return largest if len(largest) >= CROWD else set()


def _queue(states: Sequence[State]) -> set[int]:
    waiting = {state.actor.id for state in states if state.activity == "queueing" and state.speed_mps < 0.1}
    return waiting if len(waiting) >= QUEUE else set()


def _is_left(state: State, states: Sequence[State]) -> bool:
    if state.activity != "lying" or state.actor.owner is None:
        return False
    owner = next((other for other in states if other.actor.id == state.actor.owner), None)
    return owner is None or _apart_m(state, owner) >= LEFT_M


def _apart_m(one: State, other: State) -> float:
    return math.hypot(one.x_m - other.x_m, one.z_m - other.z_m)
