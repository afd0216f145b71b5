"""Densities of the time at which a model is trained or compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from matchlib.errors import SettingError
from matchlib.training.random import slice_position

if TYPE_CHECKING:
    from matchlib.algebra.interpolant import Interpolant

__all__ = ["TimeDistribution"]

KNOTS = 4097


@dataclass(frozen=True)
class TimeDistribution:
    """A density on (t_min, t_max): uniform in t, or normal in the logarithm of the noise-to-signal ratio.

    Args:
        t_min, t_max: ends of the interval, 0 <= t_min < t_max <= 1; no prediction is asked for outside it.
        log_sigma: None for a uniform density; ``(mean, std)`` for ln(sqrt(b^2 + c^2)/a) ~ N(mean, std^2), conditioned on the interval.
            For the linear path this is the logit-normal density of Esser et al. (2024, https://arxiv.org/abs/2403.03206); for a
            variance-exploding one it is the log-normal sigma of Karras et al. (2022, https://arxiv.org/abs/2206.00364).

    Raises:
        SettingError: the interval is empty or leaves [0, 1], or the standard deviation is not positive.
    """

    t_min: float = 0.0
    t_max: float = 1.0
    log_sigma: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.t_min < self.t_max <= 1:
            raise SettingError(f"times: 0 <= t_min < t_max <= 1 is required, got t_min={self.t_min}, t_max={self.t_max}")
        if self.log_sigma is not None and not self.log_sigma[1] > 0:
            raise SettingError(f"times: the standard deviation in log_sigma must be positive, got {self.log_sigma[1]}")

    def within(self, other: TimeDistribution) -> TimeDistribution:
        """Returns this density on the part of its interval that ``other`` has, too.

        Raises:
            SettingError: there is none.
        """
        return replace(self, t_min=max(self.t_min, other.t_min), t_max=min(self.t_max, other.t_max))

    def sample(self, interpolant: Interpolant, like: Tensor, generator: torch.Generator) -> Tensor:
        """Draws one time per row of ``like``: shape ``(b,)``, its floating type and device.

        Each time has this density; together they are evenly spread over it, one uniform offset for the batch, which lowers the variance
        of a batch's mean at no cost (Kingma et al., "Variational Diffusion Models", 2021, https://arxiv.org/abs/2107.00630, section I.1).
        """
        n = like.shape[0]
        first, total = slice_position(n)
        offset = torch.rand((), generator=generator, dtype=like.dtype, device=like.device)  # one number for the batch, whatever its shares
        u = (offset + torch.arange(first, first + n, dtype=like.dtype, device=like.device) / total) % 1.0
        if self.log_sigma is None:
            return self.t_min + (self.t_max - self.t_min) * u
        table = _quantiles(self, interpolant, like.dtype, like.device)
        knot = u * (KNOTS - 1)
        left = knot.long().clamp(max=KNOTS - 2)
        return torch.lerp(table[left], table[left + 1], knot - left)


@lru_cache(maxsize=64)
def _quantiles(times: TimeDistribution, interpolant: Interpolant, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The inverse distribution function of ``times`` at evenly spaced probabilities, shape ``(KNOTS,)``."""
    assert times.log_sigma is not None
    mean, std = times.log_sigma
    t = torch.linspace(times.t_min, times.t_max, 16 * KNOTS, dtype=torch.float64)[1:-1]
    at = interpolant.coefficients(t)
    ratio = 0.5 * np.log(np.asarray(at.variance)) - np.log(np.asarray(at.a))
    bounds = [0.5 * (1 + math.erf((x - mean) / std / math.sqrt(2))) for x in (ratio[0], ratio[-1])]
    wanted = mean + std * ndtri(np.linspace(bounds[0], bounds[1], KNOTS))
    increasing = np.maximum.accumulate(ratio)
    return torch.as_tensor(np.interp(wanted, increasing, t.numpy()), dtype=dtype, device=device)
