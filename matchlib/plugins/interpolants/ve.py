"""Variance-exploding diffusion on the power grid of EDM.

References:
    Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
    https://arxiv.org/abs/2206.00364 (equation 5: evenly spaced t here are its sampling steps)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from matchlib.algebra.interpolant import ScheduledInterpolant
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.algebra.rows import Scalar
from matchlib.errors import SettingError
from matchlib.registries import interpolants

__all__ = ["VE"]


@interpolants.register("ve")
@dataclass(frozen=True)
class VE(PriorInterpolant, ScheduledInterpolant):
    """a = 1, b = sigma_max t^rho, c = 0. a(1) = 1: a start from pure source is off by the data themselves, 1/sigma_max of its size.

    Args:
        sigma_max: standard deviation of the noise at t = 1, in units of the data's own, > 0.
        rho: exponent of the grid, >= 1 (7 in EDM).
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"sigma_max": 3.0}, {"rho": 2.0})
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        if not (self.sigma_max > 0 and self.rho >= 1):
            raise SettingError(f"ve: sigma_max > 0 and rho >= 1 are required, got {self.sigma_max}, {self.rho}")

    def time(self, sigma: float) -> float:
        """Returns the time at which the noise has standard deviation ``sigma``."""
        return float((sigma / self.sigma_max) ** (1 / self.rho))

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return t * 0.0 + 1.0, (self.sigma_max * t**self.rho) ** 2

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        return 1.0, self.sigma_max * t**self.rho, 0.0
