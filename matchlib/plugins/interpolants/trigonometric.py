"""The quarter circle: variance-preserving for uncorrelated data and source of equal variance.

References:
    Albergo, Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", 2022, https://arxiv.org/abs/2209.15571
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from matchlib.algebra.interpolant import ScheduledInterpolant
from matchlib.algebra.rows import Scalar
from matchlib.registries import interpolants

__all__ = ["Trigonometric"]


@interpolants.register("trigonometric")
@dataclass(frozen=True)
class Trigonometric(ScheduledInterpolant):
    """a = cos(pi t/2), b = sin(pi t/2), c = 0."""

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        angle = 0.5 * math.pi * t
        return angle.cos(), angle.sin(), 0.0
