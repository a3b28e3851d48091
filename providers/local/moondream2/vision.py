"""The vision encoder: crops become features, and the features of a picture its embeddings."""

from collections.abc import Sequence
from functools import cache
from math import ceil, floor

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from providers.local.moondream2.config import VisionConfig
from providers.local.moondream2.crops import Crops
from providers.local.moondream2.layers import Mlp, Projections, layer_norm

CROPS_AT_ONCE = 16
"""More only cost memory: by then the matrices are large enough."""


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        dim = config.enc_dim
        self.n_heads = config.enc_n_heads
        self.ln1 = layer_norm(dim)
        self.attn = Projections(dim, 3 * dim)
        self.ln2 = layer_norm(dim)
        self.mlp = Mlp(dim, config.enc_ff_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.ln1(x))
        return x + self.mlp(self.ln2(x))

    def _attention(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        parts = self.attn.qkv(x).view(n, tokens, 3, self.n_heads, dim // self.n_heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.attn.proj(mixed.transpose(1, 2).reshape(n, tokens, dim))
        return out


class Vision(nn.Module):
    """Names and shapes of the parameters are those of the published file."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        dim, patch = config.enc_dim, config.enc_patch_size
        self.patch_emb = nn.Linear(patch * patch * config.in_channels, dim)
        self.pos_emb = nn.Parameter(torch.empty(1, config.grid**2, dim))
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.enc_n_layers))
        self.post_ln = layer_norm(dim)
        self.proj_mlp = Mlp(2 * dim, config.proj_inner_dim, config.proj_out_dim)

    def forward(self, pictures: Sequence[Crops]) -> Tensor:
        """Embeddings [pictures, grid², dim of the text]. The crops of all pictures go through together."""
        features = self.features(np.concatenate([crops.pixels for crops in pictures]))
        counts = [len(crops.pixels) for crops in pictures]
        parts = zip(pictures, features.split(counts), strict=True)
        return self.project(torch.stack([self.joined(crops, mine) for crops, mine in parts]))

    def features(self, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Tensor:
        """[crops, side, side, 3] → [crops, grid², enc_dim]."""
        dtype, device = self.pos_emb.dtype, self.pos_emb.device
        found = [
            self.encode(self.normalised(torch.from_numpy(some).to(device), dtype))
            for some in np.array_split(pixels, ceil(len(pixels) / CROPS_AT_ONCE))
        ]
        return torch.cat(found)

    def normalised(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """To patches [crops, grid², 3 · patch²], each as channel, row, column. The steps are rounded one by one, as
        the reference does."""
        n, grid, patch = len(pixels), self.config.grid, self.config.enc_patch_size
        scaled = (pixels.to(dtype) / 255 - 0.5) / 0.5
        cut = scaled.view(n, grid, patch, grid, patch, 3).permute(0, 1, 3, 5, 2, 4)
        return cut.reshape(n, grid * grid, 3 * patch * patch)

    def encode(self, patches: Tensor) -> Tensor:
        x = self.patch_emb(patches) + self.pos_emb
        for block in self.blocks:
            x = block(x)
        return self.post_ln(x)

    def joined(self, crops: Crops, features: Tensor) -> Tensor:
        """Of one picture: the whole beside its parts, put together and averaged to the same grid. [grid², 2 · dim]"""
        whole = features[0]
        return torch.cat([whole, whole if crops.is_whole else self.pooled(features[1:], crops.rows, crops.cols)], -1)

    def pooled(self, parts: Tensor, rows: int, cols: int) -> Tensor:
        """[rows · cols, grid², dim] → [grid², dim]. Two constant matrices, as not every device has a kernel for bins
        of unequal size."""
        canvas = self.stitched(parts, rows, cols)
        down = averaging(canvas.shape[0], self.config.grid).to(canvas)
        across = averaging(canvas.shape[1], self.config.grid).to(canvas)
        averaged = torch.einsum("gr,rcd,hc->ghd", down, canvas, across)
        return averaged.reshape(self.config.grid**2, -1)

    def stitched(self, parts: Tensor, rows: int, cols: int) -> Tensor:
        """Of parts that overlap, each gives its middle; those at the border of the picture, theirs up to it."""
        grid, margin = self.config.grid, self.config.overlap_margin
        tiles = parts.view(rows, cols, grid, grid, -1)
        lines = [
            torch.cat(
                [
                    tiles[row, col][_kept(row, rows, grid, margin), _kept(col, cols, grid, margin)]
                    for col in range(cols)
                ],
                1,
            )
            for row in range(rows)
        ]
        return torch.cat(lines, 0)

    def project(self, joined: Tensor) -> Tensor:
        return self.proj_mlp(joined)


def _kept(index: int, count: int, grid: int, margin: int) -> slice:
    return slice(0 if index == 0 else margin, grid if index == count - 1 else grid - margin)


@cache
def averaging(size: int, bins: int) -> Tensor:
    """[bins, size]: adaptive average pooling along one side."""
    matrix = torch.zeros(bins, size)
    for index in range(bins):
        first, after = floor(index * size / bins), ceil((index + 1) * size / bins)
        matrix[index, first:after] = 1 / (after - first)
    return matrix
