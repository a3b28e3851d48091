"""What is asked about a tableau, and that the answers are true."""

from itertools import islice

import pytest

from tests.world import lessons
from tests.world.lessons import Thing, Truth, truth_from_json, truth_of
from tests.world.tableaux import tableaux

PERSON_LEFT = Thing("person", (0.1, 0.3, 0.2, 0.8), "red", "standing")
PERSON_RIGHT = Thing("person", (0.7, 0.3, 0.8, 0.8), "blue", "fallen")
CAR = Thing("car", (0.4, 0.4, 0.6, 0.6), "red", "driving")
BAG = Thing("backpack", (0.3, 0.7, 0.34, 0.8), "green", "lying")
YARD = Truth("yard", 1.0, "", (PERSON_LEFT, BAG, CAR, PERSON_RIGHT), ())


def answers(truth: Truth) -> dict[str, str]:
    every = (*lessons.closed(truth), *lessons.counts(truth), *lessons.choices(truth))
    return {lesson.about: lesson.answer for lesson in every}


def test_answers_follow_from_what_is_there() -> None:
    assert answers(YARD) == {
        "any_person": "yes",
        "any_car": "yes",
        "any_backpack": "yes",
        "hazard": "yes",
        "fallen": "yes",
        "lying_bag": "yes",
        "dark": "no",
        "count_person": "2",
        "count_car": "1",
        "count_backpack": "1",
        "place": "yard",
        "car_colour": "red",
    }


def test_what_is_not_clear_is_not_asked() -> None:
    twilight = Truth("street", 0.5, "", (), ("person", "backpack"))
    assert answers(twilight) == {
        "any_car": "no",
        "hazard": "no",
        "fallen": "no",
        "count_car": "0",
        "place": "street",
    }
    assert lessons.captions(twilight) == {}


def test_captions_tell_what_is_asked_about() -> None:
    told = lessons.captions(YARD)
    assert told["short"] == "Two people in a yard."
    assert (
        told["normal"]
        == "Two people in a yard, one red car, a backpack on the ground. A person is lying on the ground."
    )
    assert told["long"].endswith(" One on the left, one on the right.")
    assert lessons.facts(told["normal"]) == {
        "people": "two",
        "place": "yard",
        "night": "False",
        "formation": "",
        "cars": "one red car",
        "bags": "a backpack on the ground",
        "fallen": "True",
    }


def test_a_mirror_turns_sides_and_nothing_else() -> None:
    alone = Truth("shop", 1.0, "", (PERSON_LEFT,), ())
    assert answers(alone)["side"] == "left"
    assert answers(alone.mirrored()) == answers(alone) | {"side": "right"}
    assert [thing.x for thing in YARD.mirrored().things] == pytest.approx(sorted(1 - thing.x for thing in YARD.things))


@pytest.mark.parametrize("seed", [3, 4])
def test_of_drawn_tableaux_everything_is_inside_and_counted(seed: int) -> None:
    for tableau in islice(tableaux(seed), 4):
        truth = truth_of(tableau)
        assert truth_from_json(truth.as_json()) == truth
        assert [thing.x for thing in truth.things] == sorted(thing.x for thing in truth.things)
        for thing in truth.things:
            x_min, y_min, x_max, y_max = thing.box
            assert 0 <= x_min < x_max <= 1
            assert 0 <= y_min < y_max <= 1
        if captions := lessons.captions(truth):
            people = len(truth.of("person"))
            assert lessons.facts(captions["normal"])["people"] == lessons.COUNTS[people]
            assert answers(truth)["count_person"] == str(people)
