"""The straight line: ``state = (1 - t) data + t source``.

References:
    Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow Matching for Generative Modeling", 2022, https://arxiv.org/abs/2210.02747
    Liu, Gong, Liu, "Flow Straight and Fast", 2022, https://arxiv.org/abs/2209.03003
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from matchlib.algebra.interpolant import Interpolant
from matchlib.algebra.rows import Coefficients
from matchlib.registries import interpolants

__all__ = ["Linear"]


@interpolants.register("linear")
@dataclass(frozen=True)
class Linear(Interpolant):
    """a = 1 - t, b = t, c = 0."""

    def coefficients(self, t: Tensor) -> Coefficients:
        return Coefficients(t, 1.0 - t, t, 0.0, rates=lambda: (-1.0, 1.0, 0.0))
