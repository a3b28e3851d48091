"""Places and sizes: numbers 0…1 of a picture, in and out of the decoder's states."""

import torch
from torch import Tensor, nn

from providers.local.moondream2.config import RegionConfig
from providers.local.moondream2.layers import Mlp, fourier_features


class Region(nn.Module):
    """Names and shapes of the parameters are those of the published file. Reads states before `post_ln`."""

    def __init__(self, config: RegionConfig) -> None:
        super().__init__()
        self.config = config
        self.coord_features = nn.Parameter(torch.empty(1, config.coord_feat_dim // 2))
        self.coord_encoder = nn.Linear(config.coord_feat_dim, config.dim)
        self.coord_decoder = Mlp(config.dim, config.inner_dim, config.coord_out_dim)
        self.size_features = nn.Parameter(torch.empty(2, config.size_feat_dim // 2))
        self.size_encoder = nn.Linear(config.size_feat_dim, config.dim)
        self.size_decoder = Mlp(config.dim, config.inner_dim, config.size_out_dim)

    def encode_coords(self, values: Tensor) -> Tensor:
        """[n, 1] → [n, dim]. In the model's own precision, as the reference does."""
        return self.coord_encoder(fourier_features(values, self.coord_features))

    def encode_sizes(self, values: Tensor) -> Tensor:
        """[n, 2], width first → [n, dim]."""
        return self.size_encoder(fourier_features(values, self.size_features))

    def coord_logits(self, hidden: Tensor) -> Tensor:
        """[n, dim] → [n, bins]."""
        return self.coord_decoder(hidden).float()

    def size_logits(self, hidden: Tensor) -> Tensor:
        """[n, dim] → [n, 2, bins], width first."""
        logits: Tensor = self.size_decoder(hidden).float()
        return logits.view(len(hidden), 2, -1)

    def coord(self, bin_: int) -> float:
        return bin_ / self.config.coord_out_dim

    def size(self, bin_: int) -> float:
        """From 1/1024 for the first bin to 1 for the last, on a logarithmic scale."""
        last = self.config.size_out_dim // 2 - 1
        # in float32, as the reference; its numbers are compared to 1e-9
        return float(torch.pow(2.0, torch.tensor(bin_, dtype=torch.float32) / last * 10.0 - 10.0))
