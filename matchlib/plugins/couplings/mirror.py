"""Data joined to themselves.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
    https://arxiv.org/abs/2303.08797 (section 3.4: mirror interpolants)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.records import Batch, Pair
from matchlib.algebra.rows import Coefficients, Row
from matchlib.registries import couplings

__all__ = ["Mirror"]


@couplings.register("mirror")
@dataclass(frozen=True)
class Mirror(Coupling):
    """source = data: the state is (a + b) data + c noise, and a generator answers data with other data of the same law."""

    @property
    def gaussian_source(self) -> bool:
        return False

    @property
    def reads_source(self) -> bool:
        return False

    @property
    def draws_source(self) -> bool:
        return False

    def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
        return Pair(batch.data, self.source(batch, generator=generator), batch.label)

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        del generator
        return batch.data

    def given(self, batch: Batch) -> Tensor | None:
        return batch.data

    def partner(self, data: Tensor, source: Tensor) -> Tensor | None:
        del source
        return data

    def relations(self, coefficients: Coefficients, *, source_seen: bool) -> tuple[Row, ...]:
        del coefficients, source_seen
        return (Row(1.0, -1.0, 0.0),)
