"""Layers that picture and text share."""

import torch
from torch import Tensor, nn
from torch.nn import functional

LAYER_NORM_EPS = 1e-5


class Mlp(nn.Module):
    """Two linear layers with the tanh approximation of GELU between them."""

    def __init__(self, dim: int, inner_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, inner_dim)
        self.fc2 = nn.Linear(inner_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


class Projections(nn.Module):
    """Into queries, keys and values, and out of attention again."""

    def __init__(self, dim: int, qkv_dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, qkv_dim)
        self.proj = nn.Linear(dim, dim)


def layer_norm(dim: int) -> nn.LayerNorm:
    return nn.LayerNorm(dim, eps=LAYER_NORM_EPS)


def fourier_features(values: Tensor, frequencies: Tensor) -> Tensor:
    """[n, d] through [d, f] to [n, 2f]: cosines first."""
    turned = (2 * torch.pi * values) @ frequencies
    return torch.cat([turned.cos(), turned.sin()], dim=-1)
