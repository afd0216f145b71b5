"""Data and source in the pairs that the data set states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.records import Batch, Pair
from matchlib.errors import DataError
from matchlib.registries import couplings

__all__ = ["Paired"]


@couplings.register("paired")
@dataclass(frozen=True)
class Paired(Coupling):
    """Each sample stays with its own source (degraded to clean, night to day)."""

    paired: ClassVar[bool] = True

    @property
    def gaussian_source(self) -> bool:
        return False

    @property
    def reads_source(self) -> bool:
        return True

    def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
        return Pair(batch.data, self.source(batch, generator=generator), batch.label)

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        del generator
        if batch.source is None:
            raise DataError("coupling 'paired' needs data with a source: an npz with an array 'source', or 'digits-restore'")
        return batch.source
