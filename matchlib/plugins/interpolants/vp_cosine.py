"""Variance-preserving diffusion with the cosine schedule.

References:
    Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, https://arxiv.org/abs/2102.09672 (equation 17)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.algebra.interpolant import ScheduledInterpolant
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.algebra.rows import Scalar
from matchlib.errors import SettingError
from matchlib.registries import interpolants

__all__ = ["VPCosine"]


@interpolants.register("vp-cosine")
@dataclass(frozen=True)
class VPCosine(PriorInterpolant, ScheduledInterpolant):
    """a = cos(pi/2 (t + offset)/(1 + offset)) / cos(pi/2 offset/(1 + offset)), b = sqrt(1 - a^2), c = 0.

    Args:
        offset: keeps the noise of the first steps from vanishing, >= 0 (0.008 in the paper).
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"offset": 0.1},)
    offset: float = 0.008

    def __post_init__(self) -> None:
        if not self.offset >= 0:
            raise SettingError(f"vp-cosine: offset must be at least 0, got {self.offset}")

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        first = 0.5 * math.pi * self.offset / (1 + self.offset)
        angle = 0.5 * math.pi * (t + self.offset) / (1 + self.offset)
        # cos^2 first - cos^2 angle = sin(angle - first) sin(angle + first): no cancellation near t = 0
        variance = torch.sin(angle - first) * torch.sin(angle + first) / math.cos(first) ** 2
        return angle.cos() / math.cos(first), variance

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        alpha, variance = self.prior(t)
        return alpha, variance.sqrt(), 0.0
