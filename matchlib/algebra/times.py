"""Densities of the time at which a model is trained or compared."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from matchlib.algebra.interpolant import Interpolant
from matchlib.algebra.tables import table
from matchlib.errors import SettingError

__all__ = ["TimeDistribution", "stratified_uniform", "time_of"]

KNOTS = 4097


def stratified_uniform(size: tuple[int, ...], *, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Draws uniform numbers in (0, 1), evenly spread over the interval.

    One random offset shifts them all. A ``TorchFunctionMode`` sees the call as it sees those of ``torch.rand``, so that whoever computes
    a batch in slices can draw for the whole batch.

    Args:
        size: ``(b,)``.
    """
    if has_torch_function((generator,)):
        return handle_torch_function(stratified_uniform, (generator,), size, generator=generator, dtype=dtype, device=device)
    offset = torch.rand((), generator=generator, dtype=dtype, device=device)
    n = size[0]
    u = (offset + torch.linspace(0.0, 1.0 - 1.0 / n, n, dtype=dtype, device=device)) % 1.0
    return u.clamp_min(torch.finfo(dtype).eps / 2)


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
        if self.log_sigma is not None:
            pair = tuple(self.log_sigma) if isinstance(self.log_sigma, Iterable) else ()
            if not (len(pair) == 2 and all(map(math.isfinite, pair)) and pair[1] > 0):
                raise SettingError(f"times: log_sigma is (mean, standard deviation > 0), two finite numbers, got {self.log_sigma}")
            object.__setattr__(self, "log_sigma", pair)  # a list has no hash
        if not 0 <= self.t_min < self.t_max <= 1:
            raise SettingError(f"times: 0 <= t_min < t_max <= 1 is required, got t_min={self.t_min}, t_max={self.t_max}")

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
        u = stratified_uniform(like.shape[:1], generator=generator, dtype=like.dtype, device=like.device)
        if self.log_sigma is None:
            return self.t_min + (self.t_max - self.t_min) * u
        quantiles = _quantiles(self, interpolant, like.dtype, like.device)
        knot = u * (KNOTS - 1)
        left = knot.long().clamp(max=KNOTS - 2)
        return torch.lerp(quantiles[left], quantiles[left + 1], knot - left)


@lru_cache(maxsize=64)
def _quantiles(times: TimeDistribution, interpolant: Interpolant, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns the inverse distribution function at evenly spaced probabilities, shape ``(KNOTS,)``."""
    return table(lambda: _table(times, interpolant), dtype, device)


def time_of(interpolant: Interpolant, log_sigma: float, times: TimeDistribution) -> float:
    """Returns the time at which the logarithm of the noise-to-signal ratio is ``log_sigma``, or the end of the interval nearest to it."""
    t, ratios = _ratios(interpolant, times)
    return float(np.interp(log_sigma, ratios, t, left=times.t_min, right=times.t_max))


def _ratios(interpolant: Interpolant, times: TimeDistribution) -> tuple[np.ndarray, np.ndarray]:
    """Returns times within the interval and ln(sqrt(b^2 + c^2)/a) there, which does not fall."""
    t = torch.linspace(times.t_min, times.t_max, 16 * KNOTS, dtype=torch.float64)[1:-1]
    at = interpolant.coefficients(t)
    return t.numpy(), np.maximum.accumulate(0.5 * np.log(np.asarray(at.variance)) - np.log(np.asarray(at.a)))


def _table(times: TimeDistribution, interpolant: Interpolant) -> np.ndarray:
    assert times.log_sigma is not None
    mean, std = times.log_sigma
    t, ratios = _ratios(interpolant, times)
    side = 1.0 if ratios[0] + ratios[-1] < 2 * mean else -1.0  # probabilities are counted from the end that is farther from the mean
    bounds = [0.5 * math.erfc(side * (mean - x) / std / math.sqrt(2)) for x in (ratios[0], ratios[-1])]
    if bounds[0] == bounds[1]:  # too far from the mean for any number: all at the end next to it
        return np.full(KNOTS, t[-1] if side > 0 else t[0])
    wanted = mean + side * std * torch.special.ndtri(torch.as_tensor(np.linspace(bounds[0], bounds[1], KNOTS))).numpy()
    return np.interp(wanted, ratios, t)
