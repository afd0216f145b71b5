"""Variance-preserving diffusion with a linear beta.

References:
    Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, "Score-Based Generative Modeling through Stochastic Differential Equations", 2020,
    https://arxiv.org/abs/2011.13456 (equation 32: beta(t) = beta_min + t (beta_max - beta_min))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.algebra.interpolant import ScheduledInterpolant
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.algebra.rows import Scalar
from matchlib.errors import SettingError
from matchlib.registries import interpolants

__all__ = ["VPLinear"]


@interpolants.register("vp-linear")
@dataclass(frozen=True)
class VPLinear(PriorInterpolant, ScheduledInterpolant):
    """a = exp(-(t^2 (beta_max - beta_min)/4 + t beta_min/2)), b = sqrt(1 - a^2), c = 0.

    a(1) is small but positive (0.0066 with the defaults), so a start from pure source is off by a(1) times the data.

    Args:
        beta_min, beta_max: rate of the process at t = 0 and t = 1, per unit time; 0 < beta_min <= beta_max.
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"beta_min": 1.0}, {"beta_max": 4.0})
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise SettingError(f"vp-linear: 0 < beta_min <= beta_max is required, got {self.beta_min}, {self.beta_max}")

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return log_alpha.exp(), -torch.expm1(2.0 * log_alpha)

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        alpha, variance = self.prior(t)
        return alpha, variance.sqrt(), 0.0
