"""Exponential moving averages of weights.

References:
    Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2023, https://arxiv.org/abs/2312.02696
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from matchlib.training.distributed import SingleProcess

__all__ = ["EMA"]


class EMA:
    """``average += (1 - decay_n)(weights - average)``, with ``decay_n = min(decay, (1 + n)/(10 + n))`` after n updates.

    Args:
        module: whose parameters are averaged; buffers are taken as they are.
        decays: one average for each, in [0, 1); 0 keeps no average, the weights are their own.
        parallel: which part of every weight is here.
    """

    def __init__(self, module: nn.Module, decays: Sequence[float], parallel: SingleProcess | None = None) -> None:
        self.module, self.decays, self.updates = module, tuple(decays), 0
        self.parallel = parallel or SingleProcess()
        self.parameters = list(module.parameters())
        self.weights: list[Tensor] = [self.parallel.to_local(w) for w in self.parameters]
        self.averages: list[list[Tensor]] = [[w.detach().clone() for w in self.weights] if decay else [] for decay in decays]

    @torch.no_grad()
    def update(self) -> None:
        """Takes one step towards the module's weights: one operation for each average."""
        most = (1 + self.updates) / (10 + self.updates)
        for decay, average in zip(self.decays, self.averages, strict=True):
            if average:
                torch._foreach_lerp_(average, self.weights, 1 - min(decay, most))
        self.updates += 1

    @torch.no_grad()
    def copy(self, index: int = 0) -> nn.Module:
        """Returns a whole copy of the module with the weights of one average."""
        made = self.parallel.copy(self.module)
        means = self.averages[index] or self.weights
        for weight, own, mean in zip(made.parameters(), self.parameters, means, strict=True):
            weight.copy_(self.parallel.full_tensor(mean, own))
        return made
