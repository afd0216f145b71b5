"""Interpolants: ``state = a(t) data + b(t) source + c(t) noise``; t = 0 is the data, t = 1 the source."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from matchlib.algebra.interpolant import Interpolant, ScheduledInterpolant
from matchlib.algebra.pinned import PinnedInterpolant, PriorInterpolant
from matchlib.algebra.rows import Coefficients, Scalar
from matchlib.algebra.tables import table
from matchlib.errors import SettingError, nearest
from matchlib.registry import interpolants

__all__ = ["VE", "BrownianBridge", "Linear", "LinearSDEBridge", "NoisyLinear", "Trigonometric", "VPCosine", "VPDiscrete", "VPLinear"]


@interpolants.register("linear")
@dataclass(frozen=True)
class Linear(Interpolant):
    """a = 1 - t, b = t, c = 0.

    References:
        Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow Matching for Generative Modeling", 2022, https://arxiv.org/abs/2210.02747
        Liu, Gong, Liu, "Flow Straight and Fast", 2022, https://arxiv.org/abs/2209.03003
    """

    def coefficients(self, t: Tensor) -> Coefficients:
        return Coefficients(t, 1.0 - t, t, 0.0, derivatives=lambda: (-1.0, 1.0, 0.0))


@interpolants.register("trigonometric")
@dataclass(frozen=True)
class Trigonometric(ScheduledInterpolant):
    """a = cos(pi t/2), b = sin(pi t/2), c = 0.

    References:
        Albergo, Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", 2022, https://arxiv.org/abs/2209.15571
    """

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        angle = 0.5 * math.pi * t
        return angle.cos(), angle.sin(), 0.0


@interpolants.register("noisy-linear")
@dataclass(frozen=True)
class NoisyLinear(ScheduledInterpolant):
    """a = 1 - t, b = t, c = scale sin^2(pi t).

    Args:
        scale: of the noise at t = 1/2, > 0, in units of a unit-variance source.

    References:
        Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
        https://arxiv.org/abs/2303.08797 (section 4: gamma(t) = sin^2(pi t))
    """

    scale: Annotated[float, Gt(0)] = 0.5

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise SettingError(f"noisy-linear: scale must be positive, got {self.scale}")

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        return 1.0 - t, t, self.scale * (math.pi * t).sin() ** 2


class _NoisedData(PriorInterpolant, ScheduledInterpolant):
    """A prior process from the data, whose noise is the source: a^2 and b^2 are those of ``prior``, c = 0."""

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        alpha, variance = self.prior(t)
        return alpha, variance.sqrt(), 0.0

    def transition(self, state: Tensor, data: Tensor, t: Tensor, s: Tensor, *, source: Tensor | None, generator: torch.Generator) -> Tensor:
        """Draws from the posterior of the process, whose noise is fresh; a source that is known is the noise at every time."""
        if source is not None:
            return self.coefficients(s).state(data, source, None)
        return super().transition(state, data, t, s, source=None, generator=generator)


@interpolants.register("ve")
@dataclass(frozen=True)
class VE(_NoisedData):
    """a = 1, b = sigma_max t^rho, c = 0. a(1) = 1: a start from pure source is off by the data themselves, 1/sigma_max of its size.

    Args:
        sigma_max: standard deviation of the noise at t = 1, in units of the data's own, > 0.
        rho: exponent of the grid, >= 1 (7 in EDM).

    References:
        Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
        https://arxiv.org/abs/2206.00364 (equation 5: evenly spaced t here are its sampling steps)
    """

    sigma_max: Annotated[float, Gt(0)] = 80.0
    rho: Annotated[float, Ge(1)] = 7.0

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


@interpolants.register("vp-linear")
@dataclass(frozen=True)
class VPLinear(_NoisedData):
    """a = exp(-(t^2 (beta_max - beta_min)/4 + t beta_min/2)), b = sqrt(1 - a^2), c = 0.

    a(1) is small but positive (0.0066 with the defaults), so a start from pure source is off by a(1) times the data.

    Args:
        beta_min, beta_max: rate of the process at t = 0 and t = 1, per unit time; 0 < beta_min <= beta_max.

    References:
        Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, "Score-Based Generative Modeling through Stochastic Differential Equations",
        2020, https://arxiv.org/abs/2011.13456 (equation 32: beta(t) = beta_min + t (beta_max - beta_min))
    """

    beta_min: Annotated[float, Gt(0)] = 0.1
    beta_max: Annotated[float, Gt(0)] = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise SettingError(f"vp-linear: 0 < beta_min <= beta_max is required, got {self.beta_min}, {self.beta_max}")

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        log_alpha = -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min
        return log_alpha.exp(), -torch.expm1(2.0 * log_alpha)


@interpolants.register("vp-cosine")
@dataclass(frozen=True)
class VPCosine(_NoisedData):
    """a = cos(pi/2 (t + offset)/(1 + offset)) / cos(pi/2 offset/(1 + offset)), b = sqrt(1 - a^2), c = 0.

    Args:
        offset: keeps the noise of the first steps from vanishing, >= 0 (0.008 in the paper).

    References:
        Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, https://arxiv.org/abs/2102.09672 (equation 17)
    """

    offset: Annotated[float, Ge(0)] = 0.008

    def __post_init__(self) -> None:
        if not self.offset >= 0:
            raise SettingError(f"vp-cosine: offset must be at least 0, got {self.offset}")

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        first = 0.5 * math.pi * self.offset / (1 + self.offset)
        angle = 0.5 * math.pi * (t + self.offset) / (1 + self.offset)
        # cos^2 first - cos^2 angle = sin(angle - first) sin(angle + first): no cancellation near t = 0
        variance = torch.sin(angle - first) * torch.sin(angle + first) / math.cos(first) ** 2
        return angle.cos() / math.cos(first), variance


Kind = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


@interpolants.register("vp-discrete")
@dataclass(frozen=True)
class VPDiscrete(_NoisedData):
    """a^2 = product of 1 - beta_i over the first ``steps`` t levels, its logarithm a monotone cubic between them; b = sqrt(1 - a^2), c = 0.

    Level k of DDPM, counted from 0, is t = (k + 1)/steps.

    Args:
        kind: ``linear`` in beta, ``scaled_linear`` in its root, or ``squaredcos_cap_v2``.
        beta_start, beta_end: first and last beta, 0 < start <= end < 1; the cosine has its own.
        steps: number of levels, >= 2.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239 (linear)
        Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2021,
        https://arxiv.org/abs/2112.10752 (scaled linear)
        Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, https://arxiv.org/abs/2102.09672 (squared cosine)
    """

    tolerances: ClassVar[dict[str, float]] = {"derivatives_are_derivatives": 1e-4}  # the second derivative jumps at each level
    kind: Kind = "linear"
    beta_start: Annotated[float, Gt(0), Lt(1)] = 1e-4
    beta_end: Annotated[float, Gt(0), Lt(1)] = 0.02
    steps: Annotated[int, Ge(2)] = 1000

    def __post_init__(self) -> None:
        kinds = get_args(Kind)
        if self.kind not in kinds:
            raise SettingError(f"vp-discrete: kind must be one of {', '.join(kinds)}, got {self.kind!r}{nearest(self.kind, kinds)}")
        if not (0 < self.beta_start <= self.beta_end < 1 and self.steps >= 2):
            raise SettingError(
                "vp-discrete: 0 < beta_start <= beta_end < 1 and steps >= 2 are required, "
                f"got {self.beta_start}, {self.beta_end}, {self.steps}"
            )

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        below = (t.detach() * self.steps).long().clamp(0, self.steps - 1)
        x = t - below.to(t.dtype) / self.steps
        cubic, square, slope, level = _log_alpha(self, t.dtype, t.device)[:, below]
        log_alpha = ((cubic * x + square) * x + slope) * x + level
        return log_alpha.exp(), -torch.expm1(2.0 * log_alpha)


@lru_cache(maxsize=16)
def _log_alpha(path: VPDiscrete, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Coefficients of ln a, a cubic in the time since the last level, shape ``(4, steps)``."""
    return table(lambda: _cubics(path), dtype, device)


def _cubics(path: VPDiscrete) -> np.ndarray:
    n = path.steps
    betas = {
        "linear": lambda: np.linspace(path.beta_start, path.beta_end, n),
        "scaled_linear": lambda: np.linspace(path.beta_start**0.5, path.beta_end**0.5, n) ** 2,
        "squaredcos_cap_v2": lambda: _cosine(n),
    }[path.kind]()
    levels = np.concatenate([[0.0], 0.5 * np.cumsum(np.log1p(-betas))])
    return monotone_cubic(np.arange(n + 1) / n, levels)


def monotone_cubic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns the coefficients ``(4, n - 1)`` of a cubic between each two of n >= 3 points of a monotone sequence, itself monotone.

    As scipy's ``PchipInterpolator(x, y).c``, without scipy.

    References:
        Fritsch, Butland, "A Method for Constructing Local Monotone Piecewise Cubic Interpolants", 1984, https://doi.org/10.1137/0905021
    """
    h = np.diff(x)
    slope = np.diff(y) / h
    left, right = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    inner = 1.0 / ((left / slope[:-1] + right / slope[1:]) / (left + right))  # a weighted harmonic mean

    def end(h0: float, h1: float, m0: float, m1: float) -> float:
        estimate = ((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1)  # of three points, from one side
        return estimate if np.sign(estimate) == np.sign(m0) else 0.0

    at = np.array([end(h[0], h[1], slope[0], slope[1]), *inner, end(h[-1], h[-2], slope[-1], slope[-2])])
    bend = (at[:-1] + at[1:] - 2 * slope) / h
    return np.stack([bend / h, (slope - at[:-1]) / h - bend, at[:-1], y[:-1]])


def _cosine(n: int) -> np.ndarray:
    """Betas of the squared cosine, at most 0.999."""
    level = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1 - level[1:] / level[:-1], 0.999)


@interpolants.register("brownian-bridge")
@dataclass(frozen=True)
class BrownianBridge(PinnedInterpolant):
    """a = 1 - t, b = t, c^2 = epsilon t (1 - t): sqrt(epsilon) times a Brownian motion, pinned at both ends.

    The velocity is singular at both ends (c' is infinite).

    Args:
        epsilon: variance of the prior process at t = 1, > 0.

    References:
        Shi, De Bortoli, Campbell, Doucet, "Diffusion Schrödinger Bridge Matching", 2023, https://arxiv.org/abs/2303.16852
    """

    epsilon: Annotated[float, Gt(0)] = 1.0

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise SettingError(f"brownian-bridge: epsilon must be positive, got {self.epsilon}")

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.epsilon * t


@interpolants.register("linear-sde-bridge")
@dataclass(frozen=True)
class LinearSDEBridge(PinnedInterpolant):
    """The process dX = -rate X ds + sqrt(g2) dW in its own time s(t) = duration(t), pinned at both ends.

    The own time runs as s = t (1 - warp) + warp t^2, so ``warp = 1`` has the linear beta of variance-preserving diffusion. With
    ``g2 = 2 rate`` the prior preserves unit variance; ``rate < 0`` expands.

    Args:
        rate: mean reversion per unit of own time, from -40 to 40 but not 0 (a Brownian bridge is ``brownian-bridge``).
        g2: variance rate, > 0.
        warp: in [0, 1].

    References:
        Zhou, Lou, Khanna, Ermon, "Denoising Diffusion Bridge Models", 2023, https://arxiv.org/abs/2309.16948
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"rate": -0.5},)
    rate: float = 1.0
    g2: Annotated[float, Gt(0)] = 2.0
    warp: Annotated[float, Ge(0), Le(1)] = 0.0

    def __post_init__(self) -> None:
        if not 0 < abs(self.rate) <= 40 or not self.g2 > 0 or not 0 <= self.warp <= 1:  # exp(2 * 40) is a float32
            raise SettingError(
                "linear-sde-bridge: rate from -40 to 40 but not 0, g2 > 0 and 0 <= warp <= 1 are required, "
                f"got rate={self.rate}, g2={self.g2}, warp={self.warp}"
            )

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.step(torch.zeros_like(t), t)

    def step(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        own = (t - s) * (1 - self.warp + self.warp * (t + s))
        return torch.exp(-self.rate * own), -self.g2 / (2 * self.rate) * torch.expm1(-2 * self.rate * own)
