"""RealUID: universal inverse distillation with real data.

References:
    "Universal Inverse Distillation for Matching Models with Real-Data Supervision (No GANs)", 2025, https://arxiv.org/abs/2509.22459
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from matchlib.distillation.loss import BilinearLoss, Weights
from matchlib.errors import SettingError
from matchlib.registries import losses

__all__ = ["RealUID"]


@losses.register("realuid")
@dataclass(frozen=True)
class RealUID(BilinearLoss):
    """``q(gamma, alpha, beta)`` on generated and ``q(1 - gamma, 1 - alpha, 1 - beta)`` on real points; critic maximises, student minimises.

    alpha = beta = 1 is data-free distillation (UID). alpha = beta > 1 with a gamma in (0, 1) extrapolates: at the optimum the teacher's
    error is divided by alpha, to first order. alpha = beta = inf is that loss divided by alpha^2 in the limit.

    Args:
        alpha: weight of the teacher on generated points, > 0, no unit.
        beta: weight of the target on generated points, > 0.
        gamma: weight of |d|^2 on generated points, in (0, 1); 1 only with alpha = beta = 1. None means alpha.
        space: prediction in which the loss is taken; None means the teacher's own row. For alpha != beta it changes the optimum.
        weight_power: exponent of the per-sample weight of the student's loss, >= 0; 0 for none, 1 for that of SiD.

    Raises:
        SettingError: outside that domain, where the inner maximum would be infinite.
    """

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float | None = None
    space: str | None = None
    weight_power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        gamma = self._gamma
        given = f"got alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}"
        if not (self.alpha > 0 and self.beta > 0):
            raise SettingError(f"realuid: alpha and beta must be positive, {given}")
        if math.isinf(self.alpha) != math.isinf(self.beta):
            raise SettingError(f"realuid: alpha = inf is the limit of alpha = beta, so beta must be inf too, {given}")
        if not (0 < gamma < 1 or gamma == self.alpha == self.beta == 1):
            raise SettingError(
                "realuid: gamma must lie in (0, 1), or be 1 with alpha = beta = 1 (else the critic's maximum is infinite); "
                f"{given}: set gamma, for example gamma=0.5"
            )

    @property
    def _gamma(self) -> float:
        return self.alpha if self.gamma is None else self.gamma

    @property
    def generated(self) -> Weights:
        limit = math.isinf(self.alpha)
        return Weights(self._gamma, 1.0, 1.0) if limit else Weights(self._gamma, self.alpha, self.beta)

    @property
    def real(self) -> Weights:
        limit = math.isinf(self.alpha)
        return Weights(1 - self._gamma, -1.0, -1.0) if limit else Weights(1 - self._gamma, 1 - self.alpha, 1 - self.beta)
