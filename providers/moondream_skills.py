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


YES_NO = ("yes", "no")


@dataclass(frozen=True, slots=True)
class Skill:
    """One call; two questions with equal skills share it. `choices` are the only answers that are allowed: our own
    server takes the likeliest, and says how likely each is."""

    path: str
    subject: str
    max_tokens: int = 0
    choices: tuple[str, ...] = ()

    def body(self) -> dict[str, Any]:
        """Beside the picture."""
        body: dict[str, Any]
        match self.path:
            case "/query":
                body = {"question": self.subject, "reasoning": False}
                body["settings"] = {"temperature": 0, "max_tokens": self.max_tokens}
                if self.choices:
                    body["choices"] = list(self.choices)
            case "/caption":
                body = {"length": "short"}
                body["settings"] = {"temperature": 0, "max_tokens": self.max_tokens}
            case "/detect":
                body = {"object": self.subject, "settings": {"max_objects": MAX_SHAPES}}
            case _:
                body = {"object": self.subject}
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


def closed_skills(question: Question) -> tuple[Skill, ...]:
    """For our own server: what has few answers is decided by their likelihood, and each label by itself. Empty where
    the answer is open."""
    match question.kind:
        case QuestionKind.BOOLEAN:
            return (Skill("/query", question.wording.strip(), 1, YES_NO),)
        case QuestionKind.CHOICE:
            return (Skill("/query", question.wording.strip(), 1, question.choices),)
        case QuestionKind.LABELS:
            return tuple(Skill("/query", is_there(label), 1, YES_NO) for label in question.choices)
        case _:
            return ()


def is_there(label: str) -> str:
    article = "an" if label[:1].lower() in "aeiou" else "a"
    return f"Is there {article} {label} in the picture?"


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
