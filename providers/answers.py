"""From a model's words to an answer: strict, one reader per kind of question, never by substring.

What can't be read becomes an answer with status error, which keeps the words. No reader raises, and none
makes a value out of a refusal, an echo of the question or a page of HTML.
"""

import re
from collections.abc import Callable

from providers.base import Answer, AnswerStatus, Question, QuestionKind, Value, harmless, truncated
from providers.vocabulary import NOT_EXACT, NOTHING, NUMBERS, UNKNOWN
from providers.words import clean, mentions, stems, tokens

MAX_COUNT = 10_000
MAX_TEXT = 1000
MAX_READ = 4096

_REFUSAL = re.compile(
    r"\b(?:i'?m sorry|i am sorry|i apologi[sz]e|as an ai|i(?:'m| am) (?:unable|not able)"
    r"|i (?:cannot|can't|can not|could not|couldn't) (?:see|view|assist|help|process|access|provide)"
    r"|please (?:paste|provide|upload|share|attach)"
    r"|(?:don't|do not|cannot|can't) see (?:the|an|any) (?:image|picture|photo|attachment|file))\b"
)
_MARKS = "<[{"
"""Of markup and JSON. In a description they may stand somewhere; a word or a number has no use for them."""

_LEAD = re.compile(r"^(?:the )?answer(?: is)?\s*:?\s*")
_YES_NO = re.compile(r"^(yes|no|true|false)(?:$|\s*[,.;:!-]\s)")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")


def ok(question: Question, value: Value, raw: str) -> Answer:
    return Answer(question, value, AnswerStatus.OK, raw=harmless(raw))


def unknown(question: Question, raw: str = "") -> Answer:
    return Answer(question, None, AnswerStatus.UNKNOWN, raw=harmless(raw))


def error(question: Question, raw: str) -> Answer:
    return Answer(question, None, AnswerStatus.ERROR, raw=harmless(raw))


def answer_from_text(question: Question, text: str) -> Answer:
    """The answer that a free text gives to one question. Boxes and points have no text form: always an
    error."""
    if not is_answer_like(question, text):
        return error(question, text)
    said = _LEAD.sub("", clean(text[:MAX_READ]))
    own_words = {clean(choice) for choice in question.choices}
    if said in UNKNOWN and said not in own_words:
        return unknown(question, text)
    read = _READERS.get(question.kind)
    value = read(question, text) if read else None
    return error(question, text) if value is None else ok(question, value, text)


def is_answer_like(question: Question, text: str) -> bool:
    """False for what is no answer to anything: nothing, markup, JSON, a refusal, the question itself."""
    if len(text) > MAX_READ and question.kind is not QuestionKind.TEXT:
        return False
    said = clean(text[:MAX_READ])
    if not any(letter.isalnum() for letter in said) or said[0] in _MARKS:
        return False
    if question.kind is not QuestionKind.TEXT and any(mark in said for mark in _MARKS):
        return False
    echo = clean(question.wording)
    return not (_REFUSAL.search(said) or (len(stems(echo)) > 2 and echo in said))


def boolean(question: Question, text: str) -> bool | None:
    """A yes or no that leads the answer and stands alone or before a comma; both in one answer are
    neither."""
    said = _LEAD.sub("", clean(text))
    match = _YES_NO.match(said)
    if match is None:
        return None
    yes = match[1] in ("yes", "true")
    opposite = {"no", "false"} if yes else {"yes", "true"}
    return None if opposite & set(tokens(said)) else yes


def count(question: Question, text: str) -> int | None:
    """The one number of the answer, in digits or words up to twenty; "about five" and "two or three" are
    none."""
    said = _LEAD.sub("", clean(text))
    if _says_none(question, said):
        return 0
    if re.search(r"\d[.,:/-]\d|-\d|\d%", said):
        return None
    words = tokens(said)
    numbers = [number for word in words if (number := _number(word)) is not None]
    if len(numbers) != 1 or NOT_EXACT & set(words) or numbers[0] > MAX_COUNT:
        return None
    return numbers[0]


def choice(question: Question, text: str) -> str | None:
    """The choice that the answer is, or else the only one that it names without denying it."""
    said = _LEAD.sub("", clean(text))
    for one in question.choices:
        if said == clean(one) or (stems(said) and stems(said) == stems(one)):
            return one
    named = {mention.choice for mention in mentions(text, question.choices) if not mention.negated}
    return named.pop() if len(named) == 1 else None


def labels(question: Question, text: str) -> tuple[str, ...] | None:
    """The classes that the answer names, in the question's order. Empty only where it says that there are
    none."""
    if clean(text) in NOTHING:
        return ()
    found = mentions(text, question.choices)
    here = {mention.choice for mention in found if not mention.negated}
    absent = {mention.choice for mention in found if mention.negated}
    if not found or here & absent:
        return None
    return tuple(one for one in question.choices if one in here)


def text(question: Question, text: str) -> str | None:
    """The words themselves, in one line, at most MAX_TEXT characters."""
    line = " ".join(truncated(_CONTROLS.sub(" ", text[:MAX_READ])).split())
    return line[:MAX_TEXT] or None


def _says_none(question: Question, said: str) -> bool:
    """Exactly "none", "nobody", "no cars": a longer sentence with a "no" in it may mean anything."""
    nothing = {"none", "no one", "nobody", "zero"}
    return said in nothing or (bool(question.object) and stems(said) == ("no", *stems(question.object)))


def _number(word: str) -> int | None:
    if word.isascii() and word.isdigit():
        return int(word) if len(word) < 10 else MAX_COUNT + 1
    return NUMBERS.get(word)


_READERS: dict[QuestionKind, Callable[[Question, str], Value]] = {
    QuestionKind.BOOLEAN: boolean,
    QuestionKind.COUNT: count,
    QuestionKind.CHOICE: choice,
    QuestionKind.LABELS: labels,
    QuestionKind.TEXT: text,
}
