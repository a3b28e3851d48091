"""Questions from the command line."""

import click
import pytest

from daemon.commands.asked import questions_from
from providers.base import QuestionKind


@pytest.mark.parametrize(
    ("text", "kind", "name", "wording"),
    [
        ("What is this?", QuestionKind.TEXT, "question_1", "What is this?"),
        ("gate=yesno:Is it open?", QuestionKind.BOOLEAN, "gate", "Is it open?"),
        ("Is 1+1=2 on the sign?", QuestionKind.TEXT, "question_1", "Is 1+1=2 on the sign?"),
        ("At 10:30, what?", QuestionKind.TEXT, "question_1", "At 10:30, what?"),
        ("text:yesno: what does it mean?", QuestionKind.TEXT, "question_1", "yesno: what does it mean?"),
    ],
)
def test_the_prefix_makes_the_kind(text: str, kind: QuestionKind, name: str, wording: str) -> None:
    [question] = questions_from([text])
    assert (question.kind, question.name, question.wording) == (kind, name, wording)


def test_objects_and_choices_come_after_the_prefix() -> None:
    people, where, things, time = questions_from(
        ["count:person", "boxes:car", "labels:person, car", "choice:day|night:Is it day?"]
    )
    assert (people.kind, people.object) == (QuestionKind.COUNT, "person")
    assert (where.kind, where.object) == (QuestionKind.BOXES, "car")
    assert things.choices == ("person", "car")
    assert (time.choices, time.wording) == (("day", "night"), "Is it day?")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["count:"], "needs an object"),
        (["choice:one"], "at least two"),
        (["a=x?", "a=y?"], "two questions are called 'a'"),
        (["people_count=text:x"], "column that holds count"),
        (["labels:car,"], "at least 1 character"),
    ],
)
def test_what_makes_no_sense_is_said(texts: list[str], says: str) -> None:
    with pytest.raises(click.BadParameter, match=says):
        questions_from(texts)
