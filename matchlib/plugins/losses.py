"""Distillation losses: coefficients of ``q(square, teacher, target)``, the quadratic of ``Predictions``, for critic and student.

With d = critic - teacher, q is ``weight (-square |d|^2 + 2 <d, target c - teacher f*>)``. Settings that the losses share:

- ``space``: the prediction in which the loss is taken; None means the teacher's own. It only changes the time weight, unless a loss says
  otherwise.
- ``weight_power``: exponent of the per-sample weight of the student's loss, >= 0; 0 for none, 1 for that of SiD.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from matchlib.distillation.loss import BilinearLoss, Quadratic
from matchlib.errors import SettingError
from matchlib.registry import losses

__all__ = ["FGM", "IBMD", "UID", "RealUID", "SiD"]


@losses.register("uid")
@dataclass(frozen=True)
class UID(BilinearLoss):
    """``q(1, 1, 1)`` on generated points: the teacher's excess loss over that of the critic.

    References:
        "Universal Inverse Distillation for Matching Models with Real-Data Supervision (No GANs)", 2025, https://arxiv.org/abs/2509.22459
    """

    space: str | None = None
    weight_power: float = 1.0


@losses.register("ibmd")
@dataclass(frozen=True)
class IBMD(BilinearLoss):
    """``q(1, 1, 1)`` with the target ``-(state - alpha_t data)/sigma_t^2``, alpha_t and sigma_t those of the prior.

    References:
        Gushchin, Selikhanovych, Kholkin, Burnaev, Korotin, "Inverse Bridge Matching Distillation", 2025, https://arxiv.org/abs/2502.01362
    """

    space: str | None = "prior-score"
    weight_power: float = 1.0


@losses.register("fgm")
@dataclass(frozen=True)
class FGM(BilinearLoss):
    """``2 <teacher - critic, critic - target>`` in velocity space (the part L2 that its authors train): ``q(2, 1, 1)`` for the student.

    References:
        Huang, Geng, Luo, Qi, "Flow Generator Matching", 2024, https://arxiv.org/abs/2410.19310
    """

    space: str | None = "velocity"
    weight_power: float = 1.0

    @property
    def student(self) -> Quadratic:
        return Quadratic(2.0, 1.0, 1.0)


@losses.register("sid")
@dataclass(frozen=True)
class SiD(BilinearLoss):
    """``w (-a |d|^2 + <d, data - teacher>)`` in data space, w the reciprocal of the teacher's mean absolute error at the sample.

    Args:
        a: weight of |d|^2, > 0 (the paper's alpha; 1.2 and 1.0 are its choices); only a = 1/2 has the gradient of the divergence.

    References:
        Zhou, Zheng, Wang, Yin, Huang, "Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion Models for
        One-Step Generation", 2024, https://arxiv.org/abs/2404.04057
    """

    a: float = 1.2
    space: str | None = "data"
    weight_power: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.a < math.inf:
            raise SettingError(f"sid: a must be positive and finite, got {self.a}")

    @property
    def student(self) -> Quadratic:
        return Quadratic(self.a, 0.5, 0.5)


@losses.register("realuid")
@dataclass(frozen=True)
class RealUID(BilinearLoss):
    """``q(gamma, alpha, beta)`` on generated and ``q(1 - gamma, 1 - alpha, 1 - beta)`` on real points; critic maximises, student minimises.

    alpha = beta = 1 is data-free distillation (UID). alpha = beta > 1 with a gamma in (0, 1) extrapolates: at the optimum the teacher's
    error is divided by alpha, to first order. alpha = beta = inf is that loss divided by alpha^2 in the limit.

    Args:
        alpha: weight of the teacher on generated points, > 0, no unit.
        beta: weight of the target on generated points, > 0. None means alpha.
        gamma: weight of |d|^2 on generated points, in (0, 1); 1 only with alpha = beta = 1. None means alpha where that is allowed,
            else 1/2.
        rescaled: whether the loss is written for e = d / alpha and divided by alpha^2. The student's optimum stays, the critic has alpha
            times less far to go, and gradients are of order one. alpha = inf always is.
        ramp: share of the steps, from the first, in which 1 / alpha goes linearly from 1 (the teacher's distribution) to its value; in
            [0, 1].
        space: for alpha != beta it changes the optimum.

    Raises:
        SettingError: outside that domain, where the inner maximum would be infinite.

    References:
        "Universal Inverse Distillation for Matching Models with Real-Data Supervision (No GANs)", 2025, https://arxiv.org/abs/2509.22459
    """

    linked: ClassVar[tuple[str, ...]] = ("alpha", "beta", "gamma")
    alpha: float = 1.0
    beta: float | None = None
    gamma: float | None = None
    rescaled: bool = False
    ramp: float = 0.0
    space: str | None = None
    weight_power: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta is None:
            object.__setattr__(self, "beta", self.alpha)
        if self.gamma is None:
            tied = 0 < self.alpha < 1 or self.alpha == self.beta == 1
            object.__setattr__(self, "gamma", self.alpha if tied else 0.5)
        beta, gamma = self._beta, self._gamma
        if not 0 <= self.ramp <= 1:
            raise SettingError(f"realuid: ramp must lie in [0, 1], got {self.ramp}")
        values = f"got alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}"
        if not (self.alpha > 0 and beta > 0):
            raise SettingError(f"realuid: alpha and beta must be positive, {values}")
        if math.isinf(self.alpha) != math.isinf(beta):
            raise SettingError(f"realuid: alpha = inf is the limit of alpha = beta, so beta must be inf too, {values}")
        if not (0 < gamma < 1 or gamma == self.alpha == beta == 1):
            raise SettingError(
                "realuid: gamma must lie in (0, 1), or be 1 with alpha = beta = 1 (else the critic's maximum is infinite); "
                f"{values}: set gamma, for example gamma=0.5"
            )

    @property
    def caution(self) -> str | None:
        if self.alpha == self.beta:
            return None
        return (
            f"alpha={self.alpha:g} and beta={self.beta:g} differ: the best student then depends on the prediction that is compared "
            "(loss.space), and need not be a mixture of teacher and data; alpha = beta is the usual choice"
        )

    @property
    def _beta(self) -> float:
        assert self.beta is not None  # ``__post_init__`` has chosen it
        return self.beta

    @property
    def _gamma(self) -> float:
        assert self.gamma is not None
        return self.gamma

    @property
    def _unit(self) -> float:
        """What d is measured in."""
        return self.alpha if self.rescaled else 1.0

    @property
    def generated(self) -> Quadratic:
        if math.isinf(self.alpha):
            return Quadratic(self._gamma, 1.0, 1.0)
        return Quadratic(self._gamma, self.alpha / self._unit, self._beta / self._unit)

    @property
    def real(self) -> Quadratic:
        if math.isinf(self.alpha):
            return Quadratic(1 - self._gamma, -1.0, -1.0)
        return Quadratic(1 - self._gamma, (1 - self.alpha) / self._unit, (1 - self._beta) / self._unit)

    def at(self, progress: float) -> RealUID:
        if progress >= self.ramp:
            return self
        slope = (1 / self.alpha - 1) * progress / self.ramp
        now = 1 / (1 + slope)
        ratio = 1.0 if math.isinf(self.alpha) else self._beta / self.alpha
        rescaled = self.rescaled or math.isinf(self.alpha)
        return replace(self, alpha=now, beta=ratio * now, gamma=self._gamma, rescaled=rescaled, ramp=0.0)
