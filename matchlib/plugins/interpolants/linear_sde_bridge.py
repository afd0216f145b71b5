"""The bridge of a general linear prior process with constant rates.

References:
    Zhou, Lou, Khanna, Ermon, "Denoising Diffusion Bridge Models", 2023, https://arxiv.org/abs/2309.16948
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.algebra.pinned import PinnedInterpolant
from matchlib.errors import SettingError
from matchlib.registries import interpolants

__all__ = ["LinearSDEBridge"]


@interpolants.register("linear-sde-bridge")
@dataclass(frozen=True)
class LinearSDEBridge(PinnedInterpolant):
    """The process dX = -rate X ds + sqrt(g2) dW in its own time s(t) = duration(t), pinned at both ends.

    The own time runs as s = t (1 - warp) + warp t^2, so ``warp = 1`` has the linear beta of variance-preserving diffusion. With
    ``g2 = 2 rate`` the prior preserves unit variance; ``rate < 0`` expands.

    Args:
        rate: mean reversion per unit of own time, not 0 (a Brownian bridge is ``brownian-bridge``).
        g2: variance rate, > 0.
        warp: in [0, 1].
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"rate": -0.5}, {"g2": 0.7}, {"warp": 1.0})
    rate: float = 1.0
    g2: float = 2.0
    warp: float = 0.0

    def __post_init__(self) -> None:
        if self.rate == 0 or not self.g2 > 0 or not 0 <= self.warp <= 1:
            raise SettingError(
                "linear-sde-bridge: rate != 0, g2 > 0 and 0 <= warp <= 1 are required, "
                f"got rate={self.rate}, g2={self.g2}, warp={self.warp}"
            )

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        own = t * (1 - self.warp + self.warp * t)
        variance = -self.g2 / (2 * self.rate) * torch.expm1(-2 * self.rate * own)
        return torch.exp(-self.rate * own), variance
