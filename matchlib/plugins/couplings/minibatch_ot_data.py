"""Exact optimal transport between two data sets, within blocks of a batch: translation without pairs.

References:
    Tong et al., "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", 2023,
    https://arxiv.org/abs/2302.00482
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matchlib.algebra.records import Batch
from matchlib.errors import DataError
from matchlib.plugins.couplings.minibatch_ot import MinibatchOT
from matchlib.registries import couplings

__all__ = ["MinibatchOTData"]


@couplings.register("minibatch-ot-data")
@dataclass(frozen=True)
class MinibatchOTData(MinibatchOT):
    """As ``minibatch-ot``, from sources that are data: the sources of one block are matched to the data of the next.

    So no sample shares a plan with its own source: data that happen to come in pairs are treated as if they did not.

    Args:
        block: samples that share one plan, at most half a batch, >= 1.
    """

    @property
    def reads_source(self) -> bool:
        return True

    def plan(self, size: int) -> int:
        return min(self.block, size // 2)

    def together(self, size: int) -> int:
        return size

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        del generator
        if batch.source is None:
            raise DataError("coupling 'minibatch-ot-data' needs data with a source; use 'minibatch-ot' for a normal one")
        if len(batch.source) < 2:
            raise DataError("coupling 'minibatch-ot-data' needs batches of at least 2: a sample may not meet its own source")
        return batch.source.roll(self.plan(len(batch.source)), 0)
