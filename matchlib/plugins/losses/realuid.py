"""RealUID: universal inverse distillation with real data.

References:
    "Universal Inverse Distillation for Matching Models with Real-Data Supervision (No GANs)", 2025, https://arxiv.org/abs/2509.22459
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
        rescaled: whether the loss is written for e = d / alpha and divided by alpha^2: the same optimum for the student, reached by a
            critic that has alpha times less far to go and with gradients of order one. alpha = inf always is.
        ramp: share of the turns, from the first, in which 1 / alpha goes from 1 (the teacher's law) to its value, linearly; in [0, 1].
        space: prediction in which the loss is taken; None means the teacher's own row. For alpha != beta it changes the optimum.
        weight_power: exponent of the per-sample weight of the student's loss, >= 0; 0 for none, 1 for that of SiD.

    Raises:
        SettingError: outside that domain, where the inner maximum would be infinite.
    """

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float | None = None
    rescaled: bool = False
    ramp: float = 0.0
    space: str | None = None
    weight_power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        gamma = self._gamma
        if not 0 <= self.ramp <= 1:
            raise SettingError(f"realuid: ramp must lie in [0, 1], got {self.ramp}")
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
    def _unit(self) -> float:
        """What d is measured in."""
        return self.alpha if self.rescaled else 1.0

    @property
    def generated(self) -> Weights:
        if math.isinf(self.alpha):
            return Weights(self._gamma, 1.0, 1.0)
        return Weights(self._gamma, self.alpha / self._unit, self.beta / self._unit)

    @property
    def real(self) -> Weights:
        if math.isinf(self.alpha):
            return Weights(1 - self._gamma, -1.0, -1.0)
        return Weights(1 - self._gamma, (1 - self.alpha) / self._unit, (1 - self.beta) / self._unit)

    def at(self, progress: float) -> RealUID:
        if progress >= self.ramp:
            return self
        slope = (1 / self.alpha - 1) * progress / self.ramp
        now = 1 / (1 + slope)
        ratio = 1.0 if math.isinf(self.alpha) else self.beta / self.alpha
        rescaled = self.rescaled or math.isinf(self.alpha)
        return replace(self, alpha=now, beta=ratio * now, gamma=self._gamma, rescaled=rescaled, ramp=0.0)
