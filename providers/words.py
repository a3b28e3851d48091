"""Words of an open answer: which classes it names, which it says are absent.

Stems by Snowball, which is pure Python and brings no corpus. What stemming can't know stands in `vocabulary`.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import snowballstemmer

from providers.vocabulary import (
    DECOYS,
    DETERMINERS,
    IRREGULAR,
    IS,
    KINDS,
    NEGATORS,
    OTHERS,
    SEEN,
    TURNS,
)

_TOKEN = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[.,;:!?\n]")

_ENDS_SENTENCE = frozenset(".;!?:\n")

_stemmer = snowballstemmer.stemmer("english")


def clean(text: str) -> str:
    """Lower case, one kind of quote and space, no markup around it."""
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return re.sub(r"[*`_]+", " ", plain).strip(" \t\r\n\"'.!,;:")


@lru_cache(maxsize=4096)
def stem(word: str) -> str:
    word = word.lower().replace("\u2019", "'").removesuffix("'s")
    word = IRREGULAR.get(word, word)
    return str(_stemmer.stemWord(word))


def tokens(text: str) -> list[str]:
    """Words and the marks that end a clause, lower case."""
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'"))


def stems(text: str) -> tuple[str, ...]:
    return tuple(stem(token) for token in tokens(text) if token[0].isalnum())


@dataclass(frozen=True, slots=True)
class Mention:
    choice: str
    negated: bool


def mentions(text: str, choices: Sequence[str]) -> list[Mention]:
    """The choices that a text names, in its order, and whether each is said to be absent."""
    phrases = _phrases(choices)
    longest = max((len(phrase) for phrase in phrases), default=1)
    words = tokens(text)
    stemmed = [stem(word) for word in words]
    found: list[Mention] = []
    at = 0
    while at < len(words):
        size = next((n for n in range(longest, 0, -1) if tuple(stemmed[at : at + n]) in phrases), 0)
        if size and (choice := phrases[tuple(stemmed[at : at + size])]) is not None:
            negation = _negation(words, at, at + size)
            if negation is not None:
                found.append(Mention(choice, negation))
        at += size or 1
    return found


def _phrases(choices: Iterable[str]) -> dict[tuple[str, ...], str | None]:
    """From the stems of a phrase to the choice that it means; None where it means none of them."""
    own = {stems(choice): choice for choice in choices}
    phrases: dict[tuple[str, ...], str | None] = {stems(decoy): None for decoy in DECOYS}
    for general, specials in KINDS.items():
        if (choice := own.get(stems(general))) is not None:
            phrases.update({stems(special): choice for special in specials})
    return phrases | own


def _negation(words: Sequence[str], start: int, end: int) -> bool | None:
    """Whether the words around a mention deny it; None where "no other" says nothing about the thing
    itself."""
    if _denied_after(words, end):
        return True
    negator = _negator_before(words, start)
    if negator is None:
        return False
    return None if OTHERS & set(words[negator + 1 : start]) else True


def _denied_after(words: Sequence[str], end: int) -> bool:
    """ "cars are not visible", "cars are absent", "cars: none"."""
    after = [*words[end : end + 3], "", "", ""]
    if after[0] == ":":
        return after[1] in {"no", "none", "zero", "absent", "0"}
    if after[0] in {"isn't", "aren't", "wasn't", "weren't"}:
        return after[1] in SEEN
    return after[0] in IS and (after[1] == "absent" or (after[1] == "not" and after[2] in SEEN))


def _negator_before(words: Sequence[str], start: int) -> int | None:
    """Where the word stands that denies what follows up to start, in the same clause.

    A bare noun after a comma still belongs to the list that is denied ("no cars, trucks or people"); one with
    an article or a number doesn't ("no cars, a person").
    """
    for at in range(start - 1, -1, -1):
        word = words[at]
        if word in NEGATORS:
            return at
        if word in _ENDS_SENTENCE or word in TURNS:
            return None
        if word in {",", "and"} and (words[at + 1] in DETERMINERS or words[at + 1].isdigit()):
            return None
    return None
