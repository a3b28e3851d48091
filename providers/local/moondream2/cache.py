"""What attention has seen: keys and values of pictures, shared by all questions about them, and of the rows' own
tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from providers.local.moondream2.config import TextConfig


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """BOS and a picture: keys and values [layers, kv_heads, slots, head_dim]."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    @property
    def length(self) -> int:
        return self.keys.shape[2]


def slot_bytes(config: TextConfig, dtype: torch.dtype) -> int:
    """Keys and values of one token."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_dim * dtype.itemsize


class PrefixPass:
    """Attention while pictures are taken in: the slots of each see each other, and are kept."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self._kept.append((k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])

    def prefixes(self) -> list[Prefix]:
        """One for each picture of the batch, in its order; each with memory of its own, to be freed by itself."""
        keys, values = (torch.stack(parts, 1) for parts in zip(*self._kept, strict=True))
        self._kept.clear()
        return [Prefix(key.clone(), value.clone()) for key, value in zip(keys, values, strict=True)]


class RowCache:
    """Keys and values of the rows' own tokens. Row r has slot r; its tokens lie at the places 0…, and what is beyond
    its length is never seen. Grows as needed: [layers, rows, kv_heads, places, head_dim]."""

    FIRST_PLACES = 64

    def __init__(self, config: TextConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._config = config
        self._kind = {"device": device, "dtype": dtype}
        self.clear()

    def clear(self) -> None:
        """Of its memory, too."""
        self._keys, self._values = self._empty(0, 0), self._empty(0, 0)

    @property
    def nbytes(self) -> int:
        return self._keys.nbytes + self._values.nbytes

    def reserve(self, rows: int, places: int) -> None:
        """Make room for so many rows, each of so many tokens."""
        has_rows, has_places = self._keys.shape[1], self._keys.shape[3]
        if rows <= has_rows and places <= has_places:
            return
        rows = max(rows, has_rows)
        places = max(has_places, self.FIRST_PLACES if places <= self.FIRST_PLACES else 2 ** (places - 1).bit_length())
        for name in ("_keys", "_values"):
            larger = self._empty(rows, places)
            larger[:, :has_rows, :, :has_places] = getattr(self, name)
            setattr(self, name, larger)

    def move(self, source: int, target: int, length: int) -> None:
        """Row `source` gets another slot."""
        for kept in (self._keys, self._values):
            kept[:, target, :, :length] = kept[:, source, :, :length]

    def layer(self, layer: int, rows: slice, places: int) -> tuple[Tensor, Tensor]:
        """Keys and values of these rows, up to a place: views."""
        return self._keys[layer, rows, :, :places], self._values[layer, rows, :, :places]

    def _empty(self, rows: int, places: int) -> Tensor:
        config = self._config
        return torch.zeros(config.n_layers, rows, config.n_kv_heads, places, config.head_dim, **self._kind)


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows with the same picture, by their places in the batch."""

    prefix: Prefix
    rows: Tensor


class RowsPass:
    """Attention of new tokens of rows [first, first + n): each sees its picture, its row's earlier tokens, and those
    beside it up to itself. Rows with the same picture share its keys."""

    def __init__(
        self, cache: RowCache, first: int, prefixes: Sequence[Prefix | None], lengths: Sequence[int], tokens: int
    ):
        """`lengths` are the rows' tokens so far; each now gets up to `tokens` more (what is beyond a row's own new
        ones is written over later)."""
        self._cache = cache
        self._rows = slice(first, first + len(prefixes))
        self._places = max(lengths) + tokens
        cache.reserve(self._rows.stop, self._places)
        device = cache._keys.device
        at = torch.tensor(lengths, device=device)[:, None] + torch.arange(tokens, device=device)
        self._at = at
        self._hidden = (torch.arange(self._places, device=device) > at[:, :, None])[:, None, None]
        self._groups = _groups(prefixes, device)
        self._prefix_places = max((group.prefix.length for group in self._groups), default=0)
        self._has_all = sum(len(group.rows) for group in self._groups) == len(prefixes)
        self._is_one = self._has_all and len(self._groups) == 1

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, heads, tokens, dim = q.shape
        keys, values = self._cache.layer(layer, self._rows, self._places)
        self._write(keys, k)
        self._write(values, v)
        shared = keys.shape[1]
        q = (q * dim**-0.5).view(rows, shared, heads // shared, tokens, dim)
        own = (q @ keys[:, :, None].transpose(-1, -2)).masked_fill_(self._hidden, float("-inf"))
        if not self._groups:
            return (_softmax(own) @ values[:, :, None]).view(rows, heads, tokens, dim)
        seen = _softmax(torch.cat([self._prefix_scores(layer, q), own], dim=-1))
        of_prefix, of_own = seen.split([self._prefix_places, self._places], dim=-1)
        mixed = of_own @ values[:, :, None]
        self._add_prefix_values(layer, of_prefix, mixed)
        return mixed.view(rows, heads, tokens, dim)

    def _write(self, kept: Tensor, new: Tensor) -> None:
        """`new` [rows, kv_heads, tokens, head_dim] to each row's own places."""
        if new.shape[2] == 1:
            kept[torch.arange(len(new), device=new.device), :, self._at[:, 0]] = new[:, :, 0]
        else:
            kept.scatter_(2, self._at[:, None, :, None].expand_as(new), new)

    def _prefix_scores(self, layer: int, q: Tensor) -> Tensor:
        """[rows, kv_heads, queries per kv_head, tokens, prefix places]"""
        if self._is_one:
            return _shared(q, self._groups[0].prefix.keys[layer].transpose(-1, -2))
        scores = q.new_full((*q.shape[:-1], self._prefix_places), float("-inf"))
        for group in self._groups:
            scores[group.rows] = _shared(q[group.rows], group.prefix.keys[layer].transpose(-1, -2))
        return scores

    def _add_prefix_values(self, layer: int, weights: Tensor, to: Tensor) -> None:
        if self._is_one:
            to += _shared(weights, self._groups[0].prefix.values[layer])
            return
        for group in self._groups:
            to[group.rows] += _shared(weights[group.rows], group.prefix.values[layer])


def _shared(each: Tensor, matrix: Tensor) -> Tensor:
    """[rows, kv_heads, n, tokens, a] @ [kv_heads, a, b], the matrix being the same for all rows: one product a head."""
    rows, heads, n, tokens, a = each.shape
    product = each.transpose(0, 1).reshape(heads, rows * n * tokens, a) @ matrix
    return product.view(heads, rows, n, tokens, -1).transpose(0, 1)


def _softmax(scores: Tensor) -> Tensor:
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(scores.dtype)


def _groups(prefixes: Sequence[Prefix | None], device: torch.device) -> list[_Group]:
    places: dict[Prefix, list[int]] = {}
    for place, prefix in enumerate(prefixes):
        if prefix is not None:
            places.setdefault(prefix, []).append(place)
    return [_Group(prefix, torch.tensor(rows, device=device)) for prefix, rows in places.items()]
