"""From words to answers: what each kind reads, and what it refuses to read."""

import pytest

from providers.answers import answer_from_text
from providers.base import AnswerStatus, Question, QuestionKind, Value
from providers.words import stems
from tests.providers.samples import FIRE, PEOPLE, PERSON_BOXES, SCENE, VEHICLE


def read(question: Question, text: str) -> Value:
    return answer_from_text(question, text).value


def status(question: Question, text: str) -> AnswerStatus:
    return answer_from_text(question, text).status


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Yes", True),
        ("no.", False),
        ("**Yes**", True),
        ('"No"', False),
        ("Answer: yes", True),
        ("Yes, there is a large fire.", True),
        ("No, there is no smoke either.", False),
        ("True", True),
    ],
)
def test_a_boolean_leads_its_answer(text: str, value: bool) -> None:
    assert read(FIRE, text) is value


@pytest.mark.parametrize(
    "text",
    [
        "yesterday there was one",
        "nope",
        "Yes and no",
        "Yes, there is no fire",
        "No, yes",
        "No person is visible",
        "There is a fire",
        "nothing",
        "1",
        "Is there a fire? Yes",
        "I'm sorry, I can't help with that. No",
        "",
        "   ",
        "[0.1, 0.2, 0.3, 0.4]",
        "<html>no</html>",
        '{"fire": true}',
    ],
)
def test_what_is_neither_yes_nor_no_is_an_error(text: str) -> None:
    assert status(FIRE, text) is AnswerStatus.ERROR


@pytest.mark.parametrize("text", ["Unknown", "It is unclear.", "I don't know", "Cannot determine", "N/A"])
def test_saying_so_is_unknown(text: str) -> None:
    assert status(FIRE, text) is AnswerStatus.UNKNOWN


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("two", 2),
        ("Two.", 2),
        ("There are 3 people.", 3),
        ("one", 1),
        ("none", 0),
        ("No people", 0),
        ("nobody", 0),
        ("Answer: 12", 12),
        ("zero", 0),
    ],
)
def test_a_count_is_the_one_number(text: str, value: int) -> None:
    assert read(PEOPLE, text) == value


@pytest.mark.parametrize(
    "text",
    [
        "2-3", "two or three", "about 5", "at least 2", "more than ten", "-3", "2.5", "1,000", "2 of 3",
        "a person", "several", "no one knows", "99999999999999999999999", "10001", "NaN",
    ],
)  # fmt: skip
def test_what_is_no_exact_number_is_an_error(text: str) -> None:
    assert status(PEOPLE, text) is AnswerStatus.ERROR


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("car", "car"),
        ("Trucks.", "truck"),
        ("It is a truck.", "truck"),
        ("It is a car, not a truck.", "car"),
        ("None", "none"),
        ("A taxi", "car"),
    ],
)
def test_a_choice_is_the_only_one_named(text: str, value: str) -> None:
    assert read(VEHICLE, text) == value


@pytest.mark.parametrize("text", ["a car or a truck", "not a car", "bicycle", "scar", "car, truck, none", "carpet"])
def test_no_choice_or_several_are_an_error(text: str) -> None:
    assert status(VEHICLE, text) is AnswerStatus.ERROR


CLASSES = Question(
    "things",
    QuestionKind.LABELS,
    "Which things are there?",
    ("person", "car", "dog", "traffic light", "fire", "hot dog", "bus"),
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("person, car", ("person", "car")),
        ("Cars and people", ("person", "car")),
        ("A man walks two dogs.", ("person", "dog")),
        ("two buses at the traffic lights", ("traffic light", "bus")),
        ("- person\n- dog", ("person", "dog")),
        ("no cars, trucks or people", ()),
        ("no cars, a person and two dogs", ("person", "dog")),
        ("I don't see any cars but there is a dog.", ("dog",)),
        ("There are no cars. A dog sleeps.", ("dog",)),
        ("cars are not visible", ()),
        ("person: yes, car: none", ("person",)),
        ("a person is not moving", ("person",)),
        ("a person; no other persons", ("person",)),
        ("a fire hydrant and a dog", ("dog",)),
        ("hot dogs", ("hot dog",)),
        ("none", ()),
        ("Nothing.", ()),
    ],
)
def test_labels_are_the_classes_that_are_there(text: str, value: tuple[str, ...]) -> None:
    assert read(CLASSES, text) == value


@pytest.mark.parametrize(
    "text",
    [
        "a bench and a tree",
        "cardboard and firewood",
        "a person, no person",
        "Which things are there? person, car, dog",
        "Please provide the image.",
        "",
    ],
)
def test_no_class_at_all_is_an_error_and_not_an_empty_list(text: str) -> None:
    assert status(CLASSES, text) is AnswerStatus.ERROR


def test_a_text_is_one_clean_line() -> None:
    assert read(SCENE, "  A yard\n\nat\tnight.\x00\x1b\u202e ") == "A yard at night."
    assert len(str(read(SCENE, "long " * 10_000))) <= 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "...",
        "[0.1, 0.2, 0.5, 0.9]",
        '{"type": "object"}',
        "<!DOCTYPE html>",
        "I don't see the image, please paste it.",
    ],
)
def test_a_text_that_describes_nothing_is_an_error(text: str) -> None:
    assert status(SCENE, text) is AnswerStatus.ERROR


def test_boxes_have_no_form_in_words() -> None:
    assert status(PERSON_BOXES, "one person on the left") is AnswerStatus.ERROR


def test_the_models_own_words_are_kept() -> None:
    assert answer_from_text(FIRE, "Perhaps?").raw == "Perhaps?"


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("people", "person"), ("buses", "bus"), ("benches", "bench"), ("wine glasses", "wine glass"),
        ("knives", "knife"), ("mice", "mouse"), ("men", "man"), ("Traffic_Lights", "traffic light"),
    ],
)  # fmt: skip
def test_plurals_meet_their_singular(many: str, one: str) -> None:
    assert stems(many) == stems(one)
