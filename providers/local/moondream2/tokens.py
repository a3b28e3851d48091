"""Words into ids and back, and the prompts that the model was trained on."""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from providers.local.engine import CaptionLength, Reference
from providers.local.errors import ModelError
from providers.local.escaping import harmless
from providers.local.moondream2.config import Affixes, MoondreamConfig

OFFICIAL_VOCABULARY = 51_200
_OFFICIAL = {"<|endoftext|>": 0, "<|md_reserved_2|>": 3}
_OFFICIAL_QUERY = [15381]
"""What `query` is in the right tokenizer. A stale one of GPT-2 lies beside the published weights: with it the model
answers nothing."""


class Tokens:
    def __init__(self, tokenizer: Tokenizer, config: MoondreamConfig) -> None:
        self.ids = config.tokenizer
        self._tokenizer = tokenizer
        self._added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._added_ids = frozenset(tokenizer.get_added_tokens_decoder())

    def encode(self, text: str) -> list[int]:
        """Of text from outside, in which nothing is a control token."""
        text = harmless(text, self._added)
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        assert self._added_ids.isdisjoint(ids)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Not stripped; control tokens vanish."""
        text: str = self._tokenizer.decode(list(ids))
        return text

    def query(self, question: str, places: Sequence[Reference] = (), reasoning: bool = False) -> list[int]:
        ids, template = self.ids, self.ids.templates.query
        marks = [mark for place in places for mark in self._marks(place)]
        last = ids.thinking_id if reasoning else ids.answer_id
        return [*template.prefix, *marks, *self.encode(question), *template.suffix, last]

    def _marks(self, place: Reference) -> list[int]:
        coords = [self.ids.coord_id] * 2
        return coords if len(place) == 2 else [*coords, self.ids.size_id]

    def caption(self, length: CaptionLength) -> list[int]:
        return list(getattr(self.ids.templates.caption, length))

    def detect(self, what: str) -> list[int]:
        return self._about(self.ids.templates.detect, what)

    def point(self, what: str) -> list[int]:
        return self._about(self.ids.templates.point, what)

    def _about(self, template: Affixes, what: str) -> list[int]:
        return [*template.prefix, *self.encode(f" {what}"), *template.suffix]


def load_tokens(file: Path, config: MoondreamConfig) -> Tokens:
    """Raises ModelError where it is no tokenizer, or not this model's."""
    try:
        tokenizer = Tokenizer.from_str(file.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{file}: {error.strerror}") from error
    except Exception as error:
        raise ModelError(f"{file}: no tokenizer: {error}") from error
    if problem := _problem(tokenizer, config):
        raise ModelError(f"{file}: another model's tokenizer: {problem}")
    return Tokens(tokenizer, config)


def _problem(tokenizer: Tokenizer, config: MoondreamConfig) -> str:
    size, wanted = tokenizer.get_vocab_size(), config.text.vocab_size
    if size > wanted:
        return f"it has {size} words, the model {wanted}"
    if wanted != OFFICIAL_VOCABULARY:
        return ""
    if size != wanted:
        return f"it has {size} words, the model {wanted}"
    for word, number in _OFFICIAL.items():
        if tokenizer.token_to_id(word) != number:
            return f"{word} is {tokenizer.token_to_id(word)}, and should be {number}"
    if (query := tokenizer.encode("query", add_special_tokens=False).ids) != _OFFICIAL_QUERY:
        return f'"query" is {json.dumps(query)}, and should be {_OFFICIAL_QUERY}'
    return ""
