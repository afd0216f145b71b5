"""Exact optimal transport within blocks of a batch.

References:
    Tong et al., "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", 2023,
    https://arxiv.org/abs/2302.00482
    Pooladian et al., "Multisample Flow Matching", 2023, https://arxiv.org/abs/2304.14772
"""

from __future__ import annotations

from dataclasses import dataclass

import ot
import torch
from torch import Tensor

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.interpolant import draw_like
from matchlib.algebra.records import Batch, Pair
from matchlib.errors import SettingError
from matchlib.registries import couplings

__all__ = ["MinibatchOT"]


@couplings.register("minibatch-ot")
@dataclass(frozen=True)
class MinibatchOT(Coupling):
    """The source (of the data set if it has one, else standard normal) is permuted to the least squared distance within each block.

    Neither Gaussian given the data nor independent of them, so no score can be read off: conversions refuse it. The gradient reaches
    ``batch.data`` with the permutation held fixed: where the optimal permutation jumps, the derivative of the expectation has a part
    that this misses, so a student's fixed point is right and its gradient is biased.

    Args:
        block: samples that share one plan, >= 1. Part of the law: a larger block straightens the paths.
    """

    block: int = 128

    def __post_init__(self) -> None:
        if self.block < 1:
            raise SettingError(f"minibatch-ot: block must be at least 1, got {self.block}")

    @property
    def gaussian_source(self) -> bool:
        return False

    @property
    def reads_source(self) -> bool:
        return False

    def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
        source = self.source(batch, generator=generator)
        blocks = zip(batch.data.detach().split(self.block), source.split(self.block), strict=True)
        return Pair(batch.data, torch.cat([_match(data, block) for data, block in blocks]), batch.label)

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        return draw_like(batch.data, generator) if batch.source is None else batch.source


def _match(data: Tensor, source: Tensor) -> Tensor:
    """Returns ``source`` in the order that is nearest to ``data``."""
    cost = torch.cdist(data.flatten(1).double(), source.flatten(1).double()).square().cpu().numpy()
    plan = ot.emd([], [], cost)  # uniform weights: the plan is a permutation
    return source[torch.as_tensor(plan.argmax(1), device=source.device)]
