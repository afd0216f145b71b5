"""Exponential moving averages of weights.

References:
    Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2023, https://arxiv.org/abs/2312.02696
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

__all__ = ["EMA"]


class EMA:
    """``average += (1 - decay_n)(weights - average)``, with ``decay_n = min(decay, (1 + n)/(10 + n))`` after n updates.

    Args:
        module: whose parameters are averaged; buffers are taken as they are.
        decay: in [0, 1); 0 keeps no average, the weights are their own.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.updates = module, decay, 0
        self.weights: list[Tensor] = list(module.parameters()) if decay else []
        self.average: list[Tensor] = [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step towards the module's weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        if self.average:
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)
        self.updates += 1

    @torch.no_grad()
    def copy(self) -> nn.Module:
        """Returns a copy of the module with the averaged weights."""
        averaged = copy.deepcopy(self.module)
        for weight, mean in zip(averaged.parameters(), self.average, strict=bool(self.average)):
            weight.copy_(mean)
        return averaged
