"""Rows of all skills and ages, one step at a time. No threads, no queue: whoever calls decides who enters when."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from providers.local.moondream2.cache import Prefix, PrefixPass, RowCache, RowsPass
from providers.local.moondream2.crops import Crops
from providers.local.moondream2.model import Moondream
from providers.local.moondream2.skills import (
    ChooseToken,
    Extent,
    Feed,
    Place,
    ReadExtent,
    ReadPlace,
    Reply,
    Sampling,
    Skill,
    Step,
    Token,
    WeighTokens,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A row that wants to come in. `key` names it in what is done; `prefix` is None for a question without a
    picture."""

    key: Hashable
    prompt: tuple[Feed, ...]
    prefix: Prefix | None
    skill: Skill[Any]


@dataclass(slots=True)
class _Row:
    entry: Entry
    step: Step
    length: int

    @property
    def position(self) -> int:
        """Of its next token."""
        return self.length + (self.entry.prefix.length if self.entry.prefix else 0)


Done = tuple[Hashable, Any]
"""A row's key, and what its skill returned."""
Watch = Callable[[Hashable, Step, Tensor], None]


class Batch:
    """Not for more than one thread."""

    def __init__(self, model: Moondream, seed: int = 0, watch: Watch | None = None) -> None:
        """`watch` sees every state [dim] that a step is answered from, and the row's key; for checks."""
        self.model = model
        self._watch = watch
        self._cache = RowCache(model.config.text, model.device, model.dtype)
        self._rows: list[_Row] = []
        self._hidden = self._no_hidden()
        self._random = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def places(self) -> int:
        """Tokens of the longest row."""
        return max((row.length for row in self._rows), default=0)

    @torch.inference_mode()
    def encode(self, pictures: Sequence[Crops]) -> list[Prefix]:
        """All crops of all pictures together, then all their prefixes."""
        model, text = self.model, self.model.text
        embeddings = model.vision(pictures)
        bos = text.embed(torch.full((len(pictures), 1), model.config.tokenizer.bos_id, device=model.device))
        slots = torch.cat([bos, embeddings], dim=1)
        attend = PrefixPass()
        text(slots, model.rotary[None, : slots.shape[1]], attend)
        return attend.prefixes()

    @torch.inference_mode()
    def enter(self, entries: Sequence[Entry]) -> list[Done]:
        """Take in the prompts of these rows together. What ends at its first step is done at once."""
        first = len(self._rows)
        counts = [len(entry.prompt) for entry in entries]
        x = torch.zeros(len(entries), max(counts), self.model.config.text.dim, device=self.model.device)
        x = x.to(self.model.dtype)
        x[_ragged(counts, x.device)] = self._embed([feed for entry in entries for feed in entry.prompt])
        rows = [_Row(entry, next(entry.skill), 0) for entry in entries]
        hidden = self._forward(x, rows, first)
        last = hidden[torch.arange(len(rows)), torch.tensor(counts) - 1]
        for row, count in zip(rows, counts, strict=True):
            row.length = count
        self._rows += rows
        self._hidden = torch.cat([self._hidden, last])
        return self._answer(range(first, len(self._rows)))

    @torch.inference_mode()
    def step(self) -> list[Done]:
        """One token for every row."""
        if not self._rows:
            return []
        feeds = [row.step.feed for row in self._rows]
        x = self._embed([feed for feed in feeds if feed is not None])
        self._hidden = self._forward(x[:, None], self._rows, 0)[:, 0]
        for row in self._rows:
            row.length += 1
        return self._answer(range(len(self._rows)))

    @torch.inference_mode()
    def drop(self, is_dropped: Callable[[Hashable], bool]) -> None:
        """Rows that nobody waits for any more."""
        self._leave([place for place, row in enumerate(self._rows) if is_dropped(row.entry.key)])

    def clear(self) -> list[Hashable]:
        """Give everything up, with its memory, and say whose rows that were."""
        keys = [row.entry.key for row in self._rows]
        self._rows.clear()
        self._cache.clear()
        self._hidden = self._no_hidden()
        return keys

    def _no_hidden(self) -> Tensor:
        return torch.zeros(0, self.model.config.text.dim, dtype=self.model.dtype, device=self.model.device)

    def _forward(self, x: Tensor, rows: Sequence[_Row], first: int) -> Tensor:
        """New tokens [rows, tokens, dim] of the rows in slots first…, through the decoder."""
        tokens = x.shape[1]
        starts = torch.tensor([row.position for row in rows], device=x.device)
        at = (starts[:, None] + torch.arange(tokens, device=x.device)).clamp_(max=len(self.model.rotary) - 1)
        prefixes = [row.entry.prefix for row in rows]
        attend = RowsPass(self._cache, first, prefixes, [row.length for row in rows], tokens)
        hidden: Tensor = self.model.text(x, self.model.rotary[at], attend)
        return hidden

    def _embed(self, feeds: Sequence[Feed]) -> Tensor:
        """[n, dim]"""
        model = self.model
        kind: dict[str, Any] = {"dtype": model.dtype, "device": model.device}
        ids = torch.tensor([feed.id if isinstance(feed, Token) else 0 for feed in feeds], device=model.device)
        x = model.text.embed(ids)
        if coords := [(n, feed.value) for n, feed in enumerate(feeds) if isinstance(feed, Place)]:
            places, values = zip(*coords, strict=True)
            x[list(places)] = model.region.encode_coords(torch.tensor(values, **kind)[:, None])
        if sizes := [(n, (feed.width, feed.height)) for n, feed in enumerate(feeds) if isinstance(feed, Extent)]:
            places, pairs = zip(*sizes, strict=True)
            x[list(places)] = model.region.encode_sizes(torch.tensor(pairs, **kind))
        return x

    def _answer(self, places: Iterable[int]) -> list[Done]:
        """Answer these rows' questions, until each wants to feed a token, or has ended; those that have leave."""
        done: list[Done] = []
        gone: list[int] = []
        asking = list(places)
        while asking:
            steps = [self._rows[place].step for place in asking]
            replies = self._replies(steps, self._hidden[asking])
            if self._watch:
                for place, step in zip(asking, steps, strict=True):
                    self._watch(self._rows[place].entry.key, step, self._hidden[place])
            again = []
            for place, reply in zip(asking, replies, strict=True):
                row = self._rows[place]
                try:
                    row.step = row.entry.skill.send(reply)
                except StopIteration as end:
                    done.append((row.entry.key, end.value))
                    gone.append(place)
                    continue
                if row.step.feed is None:
                    again.append(place)
            asking = again
        self._leave(gone)
        return done

    def _leave(self, places: Iterable[int]) -> None:
        """The last rows take their slots."""
        keep = list(range(len(self._rows)))
        for place in sorted(places, reverse=True):
            last = len(self._rows) - 1
            if place != last:
                self._rows[place] = self._rows[last]
                self._cache.move(last, place, self._rows[place].length)
                keep[place] = keep[last]
            del self._rows[last], keep[last]
        if len(keep) != len(self._hidden):
            self._hidden = self._hidden[keep]

    def _replies(self, steps: Sequence[Step], hidden: Tensor) -> list[Reply]:
        """What the rows want to know of these states [rows, dim], each head once for all who ask it."""
        replies: dict[int, Reply] = {}
        for kinds, answer in (
            ((ChooseToken, WeighTokens), self._of_tokens),
            ((ReadPlace,), self._of_places),
            ((ReadExtent,), self._of_extents),
        ):
            if mine := [n for n, step in enumerate(steps) if isinstance(step, kinds)]:
                found = answer([steps[n] for n in mine], hidden[mine])
                replies |= zip(mine, found, strict=True)
        return [replies[n] for n in range(len(steps))]

    def _of_tokens(self, steps: Sequence[Any], hidden: Tensor) -> Iterator[Reply]:
        logits = self.model.text.logits(hidden)
        for row, step in enumerate(steps):
            if isinstance(step, ChooseToken) and step.banned:
                logits[row, list(step.banned)] = float("-inf")
        likeliest = logits.argmax(dim=-1).tolist()
        for row, step in enumerate(steps):
            if isinstance(step, WeighTokens):
                yield tuple(logits[row].log_softmax(-1)[list(step.ids)].tolist())
            elif step.sampling.temperature > 0:
                yield drawn(logits[row], step.sampling, self._random)
            else:
                yield int(likeliest[row])

    def _of_places(self, steps: Sequence[Any], hidden: Tensor) -> Iterator[Reply]:
        region = self.model.region
        return (region.coord(bin_) for bin_ in region.coord_logits(hidden).argmax(dim=-1).tolist())

    def _of_extents(self, steps: Sequence[Any], hidden: Tensor) -> Iterator[Reply]:
        region = self.model.region
        return (
            (region.size(width), region.size(height))
            for width, height in region.size_logits(hidden).argmax(dim=-1).tolist()
        )


def drawn(logits: Tensor, sampling: Sampling, random: torch.Generator) -> int:
    """One id, among the likeliest that together have `top_p`; the first is always one of them."""
    return int(torch.multinomial(kept_probabilities(logits, sampling).cpu(), 1, generator=random))


def kept_probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Of each id: a token is left out if those before it have more than `top_p` already."""
    sorted_, ids = torch.softmax(logits.float() / sampling.temperature, dim=-1).sort(dim=-1, descending=True)
    sorted_[sorted_.cumsum(-1) - sorted_ > sampling.top_p] = 0.0
    return torch.zeros_like(sorted_).scatter_(-1, ids, sorted_ / sorted_.sum())


def _ragged(counts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Where so many items of each row are, row by row."""
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    cols = [col for count in counts for col in range(count)]
    return torch.tensor(rows, device=device), torch.tensor(cols, device=device)
