"""The text decoder. What attention sees is the caller's business: here is everything that a token goes through by
itself."""

from typing import Protocol

import torch
from torch import Tensor, nn

from providers.local.moondream2.config import TextConfig
from providers.local.moondream2.layers import Mlp, Projections, layer_norm

ROTARY_BASE = 10_000.0


class Attend(Protocol):
    """Attention of one layer."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor, /) -> Tensor:
        """Queries [rows, heads, tokens, head_dim] over whatever these tokens see, their own new keys and values
        [rows, kv_heads, tokens, head_dim] included. The shape of q comes back."""


class TextBlock(nn.Module):
    """One norm feeds attention and MLP, side by side."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.ln = layer_norm(config.dim)
        self.attn = Projections(config.dim, (config.n_heads + 2 * config.n_kv_heads) * config.head_dim)
        self.mlp = Mlp(config.dim, config.ff_dim, config.dim)


class Text(nn.Module):
    """Names and shapes of the parameters are those of the published file."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Parameter(torch.empty(config.vocab_size, config.dim))
        self.blocks = nn.ModuleList(TextBlock(config) for _ in range(config.n_layers))
        self.post_ln = layer_norm(config.dim)
        self.lm_head = nn.Linear(config.dim, config.vocab_size)

    def forward(self, x: Tensor, turns: Tensor, attend: Attend) -> Tensor:
        """[rows, tokens, dim] → the same, before `post_ln`. `turns` are the rotary table's rows at the tokens'
        positions: [rows, tokens, rotary_dim / 2, 2], or with 1 for the rows."""
        for index, block in enumerate(self.blocks):
            normed = block.ln(x)
            x = x + self._attention(index, block.attn, normed, turns, attend) + block.mlp(normed)
        return x

    def _attention(self, layer: int, attn: Projections, x: Tensor, turns: Tensor, attend: Attend) -> Tensor:
        rows, tokens, dim = x.shape
        config = self.config
        heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
        parts = attn.qkv(x).split([count * config.head_dim for count in heads], dim=-1)
        q, k, v = (
            part.view(rows, tokens, count, config.head_dim).transpose(1, 2)
            for part, count in zip(parts, heads, strict=True)
        )
        mixed = attend(layer, turned(q, turns), turned(k, turns), v)
        out: Tensor = attn.proj(mixed.transpose(1, 2).reshape(rows, tokens, dim))
        return out

    def embed(self, ids: Tensor) -> Tensor:
        """[…] → […, dim]"""
        return self.wte[ids].to(self.post_ln.weight.dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, dim] → […, vocab_size], in float32."""
        return self.lm_head(self.post_ln(hidden)).float()


def rotary_table(config: TextConfig, device: torch.device | str = "cpu") -> Tensor:
    """Cosine and sine of each angle: [max_context, rotary_dim / 2, 2], float32. Another order of the same formula
    moves it by 2e-5."""
    exponents = torch.arange(0, config.rotary_dim, 2, dtype=torch.float32) / config.rotary_dim
    angles = torch.arange(config.max_context, dtype=torch.float32)[:, None] * (1.0 / ROTARY_BASE**exponents)
    return torch.stack([angles.cos(), angles.sin()], dim=-1).to(device)


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """The first `rotary_dim` numbers of each head, by the angle of their place; x is [rows, heads, tokens, head_dim].

    The reference writes the result interleaved. As queries and keys are turned alike, attention is the same.
    """
    half = turns.shape[-2]
    cos, sin = turns[:, None, :, :, 0], turns[:, None, :, :, 1]
    a, b = x[..., :half].float(), x[..., half : 2 * half].float()
    return torch.cat([(a * cos - b * sin).to(x.dtype), (a * sin + b * cos).to(x.dtype), x[..., 2 * half :]], dim=-1)
