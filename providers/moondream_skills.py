"""Which Moondream skill answers which question, and the JSON that asks for it."""

from dataclasses import dataclass
from typing import Any

from providers.base import Question, QuestionKind
from providers.shapes import MAX_SHAPES

_MAX_TOKENS = {
    QuestionKind.BOOLEAN: 16,
    QuestionKind.COUNT: 16,
    QuestionKind.CHOICE: 32,
    QuestionKind.LABELS: 128,
    QuestionKind.TEXT: 256,
}
"""Small, but enough for a model that says "Yes, there is a person.": an answer that is cut off counts for
nothing."""


@dataclass(frozen=True, slots=True)
class Skill:
    """One call; two questions with equal skills share it."""

    path: str
    subject: str
    max_tokens: int = 0

    def body(self, image_url: str) -> dict[str, Any]:
        body: dict[str, Any] = {"image_url": image_url, "stream": False}
        match self.path:
            case "/query":
                body |= {"question": self.subject, "reasoning": False}
                body["settings"] = {"temperature": 0, "max_tokens": self.max_tokens}
            case "/caption":
                body |= {"length": "short"}
                body["settings"] = {"temperature": 0, "max_tokens": self.max_tokens}
            case "/detect":
                body |= {"object": self.subject, "settings": {"max_objects": MAX_SHAPES}}
            case _:
                body |= {"object": self.subject}
        return body


def skill_for(question: Question) -> Skill:
    match question.kind:
        case QuestionKind.BOXES:
            return Skill("/detect", question.object or question.wording)
        case QuestionKind.COUNT if question.object:
            return Skill("/detect", question.object)
        case QuestionKind.POINTS:
            return Skill("/point", question.object or question.wording)
        case QuestionKind.TEXT if not question.wording:
            return Skill("/caption", "", _MAX_TOKENS[QuestionKind.TEXT])
        case kind:
            return Skill("/query", wording(question), _MAX_TOKENS[kind])


def wording(question: Question) -> str:
    """The question with the form of its answer, as small models need to be told."""
    match question.kind:
        case QuestionKind.BOOLEAN:
            form = "Answer yes or no."
        case QuestionKind.COUNT:
            form = "Answer with a number only."
        case QuestionKind.CHOICE:
            form = f"Answer with exactly one of: {', '.join(question.choices)}."
        case QuestionKind.LABELS:
            form = f"List only those that are visible of: {', '.join(question.choices)}. If none, answer none."
        case _:
            form = ""
    return f"{question.wording.strip()} {form}".strip()
