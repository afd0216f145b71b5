"""Variance-preserving diffusion with a table of noise levels, as DDPM and diffusers' schedulers have it.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239 (linear)
    Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2021, https://arxiv.org/abs/2112.10752 (scaled linear)
    Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, https://arxiv.org/abs/2102.09672 (squared cosine)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from matchlib.algebra.interpolant import ScheduledInterpolant
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.algebra.rows import Scalar
from matchlib.errors import SettingError, nearest
from matchlib.registries import interpolants

__all__ = ["VPDiscrete"]

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")


@interpolants.register("vp-discrete")
@dataclass(frozen=True)
class VPDiscrete(PriorInterpolant, ScheduledInterpolant):
    """a^2 = product of 1 - beta_i over the first ``steps`` t levels, its logarithm a monotone cubic between them; b = sqrt(1 - a^2), c = 0.

    Level k of DDPM, counted from 0, is t = (k + 1)/steps.

    Args:
        kind: ``linear`` in beta, ``scaled_linear`` in its root, or ``squaredcos_cap_v2``.
        beta_start, beta_end: first and last beta, 0 < start <= end < 1; the cosine has its own.
        steps: number of levels, >= 2.
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {"kind": "squaredcos_cap_v2", "steps": 50},
        {"kind": "scaled_linear"},
        {"beta_start": 0.005},
        {"beta_end": 0.01},
        {"steps": 500},
    )
    tolerances: ClassVar[dict[str, float]] = {"derivatives_are_derivatives": 1e-4}  # the second derivative jumps at each level
    kind: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    steps: int = 1000

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise SettingError(f"vp-discrete: kind must be one of {', '.join(SCHEDULES)}, got {self.kind!r}{nearest(self.kind, SCHEDULES)}")
        if not (0 < self.beta_start <= self.beta_end < 1 and self.steps >= 2):
            raise SettingError(
                "vp-discrete: 0 < beta_start <= beta_end < 1 and steps >= 2 are required, "
                f"got {self.beta_start}, {self.beta_end}, {self.steps}"
            )

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        below = (t.detach() * self.steps).long().clamp(0, self.steps - 1)
        x = t - below.to(t.dtype) / self.steps
        cubic, square, slope, level = _log_alpha(self).to(t)[:, below]
        log_alpha = ((cubic * x + square) * x + slope) * x + level
        return log_alpha.exp(), -torch.expm1(2.0 * log_alpha)

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        alpha, variance = self.prior(t)
        return alpha, variance.sqrt(), 0.0


@lru_cache(maxsize=16)
def _log_alpha(path: VPDiscrete) -> Tensor:
    """Coefficients of ln a, a cubic in the time since the last level, shape ``(4, steps)``, float64."""
    n = path.steps
    betas = {
        "linear": lambda: np.linspace(path.beta_start, path.beta_end, n),
        "scaled_linear": lambda: np.linspace(path.beta_start**0.5, path.beta_end**0.5, n) ** 2,
        "squaredcos_cap_v2": lambda: _cosine(n),
    }[path.kind]()
    levels = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
    return torch.as_tensor(PchipInterpolator(np.arange(n + 1) / n, levels).c)


def _cosine(n: int) -> np.ndarray:
    """Betas of the squared cosine, at most 0.999."""
    level = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - level[1:] / level[:-1], 0.999)
