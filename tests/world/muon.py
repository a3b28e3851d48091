"""Muon: momentum whose matrices are made orthogonal before they are applied, so that no direction is left behind.

The method and its five coefficients' steps are Keller Jordan's (2024); the scale, which lets it share AdamW's learning
rate and weight decay, is that of Liu et al., "Muon is scalable for LLM training" (2025), section 2.2. torch's own
computes in bfloat16, which a CPU without such instructions does slowly.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

MOMENTUM = 0.95
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
RMS = 0.2
"""Of an update, as AdamW's usually is."""


class Muon(torch.optim.Optimizer):
    """For matrices inside the network. Those that are several in one, such as the weights of queries, keys and
    values, are taken apart: `parts` blocks of rows, for each parameter group."""

    def __init__(self, groups: Iterable[dict[str, object]], lr: float, weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "parts": 1})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            lr, decay, parts = group["lr"], group["weight_decay"], group["parts"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - MOMENTUM)
                ahead = parameter.grad.lerp(momentum, MOMENTUM)
                update = orthogonal(ahead.view(parts, -1, ahead.shape[1]))
                update *= RMS * max(update.shape[1:]) ** 0.5
                parameter.mul_(1 - lr * decay).add_(update.view_as(parameter), alpha=-lr)


def orthogonal(x: Tensor) -> Tensor:
    """Of matrices [count, rows, columns]: the same directions, all about as long."""
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x
