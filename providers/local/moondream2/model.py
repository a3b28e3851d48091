"""The whole model, and how its weights come into it."""

import torch
from torch import Tensor, nn

from providers.local.moondream2.config import MoondreamConfig
from providers.local.moondream2.region import Region
from providers.local.moondream2.text import Text, rotary_table
from providers.local.moondream2.vision import Vision


class Moondream(nn.Module):
    """Its parameters have the names and shapes of the published file, without its prefix `model.`."""

    rotary: Tensor

    def __init__(self, config: MoondreamConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = Vision(config.vision)
        self.text = Text(config.text)
        self.region = Region(config.region)

    def prepare(self) -> None:
        """After the weights are there: what is computed from the configuration, on their device."""
        self.rotary = rotary_table(self.config.text, self.text.wte.device)
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.text.wte.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text.post_ln.weight.dtype
