"""Questions from the command line: `TEXT`, `yesno:TEXT`, `count:OBJECT` and so on, each with or without
`NAME=`."""

import re
from collections.abc import Sequence
from typing import Any

import click
from pydantic import ValidationError

from pipeline.questions import QuestionSettings
from providers.base import Question, QuestionKind

RULES = """Each --question is a sentence, answered in words, or has a prefix:

\b
  yesno:Is the gate open?        yes or no
  count:person                   how many there are
  boxes:person, points:person    where they are
  labels:person,car,dog          which of these are visible
  choice:day|night:Is it day?    one of these
  text:What is written there?    words

NAME= in front names the answer: gate=yesno:Is the gate open?
"""

_NAME = re.compile(r"^([a-z_][a-z0-9_]*)=(.+)$", re.DOTALL)


def questions_from(texts: Sequence[str]) -> tuple[Question, ...]:
    """Raises click.BadParameter with what is wrong."""
    questions = tuple(_question(text, number) for number, text in enumerate(texts, 1))
    names = [question.name for question in questions]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"two questions are called {name!r}")
    return questions


def _question(text: str, number: int) -> Question:
    named = _NAME.match(text)
    name, spec = (named[1], named[2]) if named else (f"question_{number}", text)
    try:
        return QuestionSettings.model_validate({"name": name} | _table(spec)).question
    except ValidationError as error:
        raise click.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, ")) from error


def _table(spec: str) -> dict[str, Any]:
    prefix, _, rest = spec.partition(":")
    rest = rest.strip()
    match prefix:
        case "yesno":
            return {"kind": QuestionKind.BOOLEAN, "ask": rest}
        case "count" | "boxes" | "points":
            return {"kind": prefix, "object": rest}
        case "labels":
            return {"kind": prefix, "choices": _split(rest, ",")}
        case "choice":
            choices, _, ask = rest.partition(":")
            return {"kind": prefix, "choices": _split(choices, "|"), "ask": ask or "Which of these is it?"}
        case "text":
            return {"kind": prefix, "ask": rest}
        case _:
            return {"kind": QuestionKind.TEXT, "ask": spec}


def _split(words: str, mark: str) -> list[str]:
    return [word.strip() for word in words.split(mark)]
