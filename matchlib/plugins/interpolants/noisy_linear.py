"""A straight line with a free noise term that vanishes smoothly at both ends.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
    https://arxiv.org/abs/2303.08797 (section 4: gamma(t) = sin^2(pi t))
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from matchlib.algebra.interpolant import ScheduledInterpolant
from matchlib.algebra.rows import Scalar
from matchlib.errors import SettingError
from matchlib.registries import interpolants

__all__ = ["NoisyLinear"]


@interpolants.register("noisy-linear")
@dataclass(frozen=True)
class NoisyLinear(ScheduledInterpolant):
    """a = 1 - t, b = t, c = scale sin^2(pi t).

    Args:
        scale: of the noise at t = 1/2, > 0, in units of a unit-variance source.
    """

    noisy: ClassVar[bool] = True
    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"scale": 1.2},)
    scale: float = 0.5

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise SettingError(f"noisy-linear: scale must be positive, got {self.scale}")

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        return 1.0 - t, t, self.scale * (math.pi * t).sin() ** 2
