"""Data and an empirical source drawn independently: the product of two data sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.records import Batch, Pair
from matchlib.errors import DataError
from matchlib.registries import couplings

__all__ = ["IndependentData"]


@couplings.register("independent-data")
@dataclass(frozen=True)
class IndependentData(Coupling):
    """The source is data of its own; sample i meets the source of sample i + 1, which is independent of it and of its own source."""

    independent: ClassVar[bool] = True

    @property
    def gaussian_source(self) -> bool:
        return False

    @property
    def reads_source(self) -> bool:
        return True

    def together(self, size: int) -> int:
        return size

    def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
        return Pair(batch.data, self.source(batch, generator=generator), batch.label)

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        del generator
        if batch.source is None:
            raise DataError("coupling 'independent-data' needs data with a source; use 'independent' for a normal one")
        if len(batch.source) < 2:
            raise DataError("coupling 'independent-data' needs batches of at least 2: a sample may not meet its own source")
        return batch.source.roll(1, 0)
