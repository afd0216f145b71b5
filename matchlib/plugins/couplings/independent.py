"""Data and source drawn independently."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.interpolant import draw_like
from matchlib.algebra.records import Batch, Pair
from matchlib.registries import couplings

__all__ = ["Independent"]


@couplings.register("independent")
@dataclass(frozen=True)
class Independent(Coupling):
    """source ~ N(0, I)."""

    independent: ClassVar[bool] = True

    @property
    def gaussian_source(self) -> bool:
        return True

    @property
    def reads_source(self) -> bool:
        return False

    def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
        return Pair(batch.data, draw_like(batch.data, generator), batch.label)

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        return draw_like(batch.data, generator)
