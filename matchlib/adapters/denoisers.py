"""Denoisers: networks with EDM's preconditioning, and those of azula with their noise schedules.

References:
    Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
    https://arxiv.org/abs/2206.00364 (table 1)
    Rozet et al., azula, https://github.com/probabilists/azula
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.adapters.networks import describe
from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.rows import plus, scaled
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import IncompatibleError
from matchlib.fields.teacher import Teacher
from matchlib.registry import couplings, families, interpolants, objectives

__all__ = ["EDMPrecond", "azula", "edm"]


class EDMPrecond(nn.Module):
    """The denoiser ``c_skip x + c_out F(c_in x, ln(sigma)/4, ...)`` of a raw network F.

    Args:
        network: F.
        sigma_data: standard deviation of the data in F's units, > 0.
        sign: -1 where F predicts v = a source - b data of the normalised state, as diffusers' ``v_prediction`` has it.
    """

    def __init__(self, network: nn.Module, sigma_data: float = 0.5, sign: float = 1.0) -> None:
        super().__init__()
        self.network, self.sigma_data, self.sign = network, sigma_data, sign

    def forward(self, state: Tensor, sigma: Tensor, *more: Any) -> Tensor:
        """Returns the data prediction, shape ``(b, *event)``; ``sigma`` has shape ``(b,)``."""
        inner = (sigma.square() + self.sigma_data**2).rsqrt()
        answer = self.network(scaled(inner, state), sigma.log() / 4, *more)
        skip, out = (self.sigma_data * inner).square(), self.sign * self.sigma_data * sigma * inner
        return plus(scaled(skip, state), out, answer)


def edm(
    denoiser: Callable[..., Any],
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    sigma_data: float | None = None,
    rho: float = 7.0,
    arguments: Sequence[str] = ("state", "time"),
    normalization: tuple[float, float] | None = None,
) -> Teacher:
    """Returns the teacher of a denoiser ``D(x, sigma)`` of data with standard deviation ``sigma_data``.

    Args:
        denoiser: predicts the data; wrap a raw network in ``EDMPrecond``.
        sigma_min, sigma_max: the noise levels it was trained for.
        sigma_data: by default the denoiser's own attribute, else 1/2.
        arguments: ``("state", "time", "label")`` for ``D(x, sigma, class)``.
        normalization: as for ``Teacher``; (127.5, 127.5) for 8-bit images that were scaled to [-1, 1].
    """
    sigma_data = float(getattr(denoiser, "sigma_data", 0.5)) if sigma_data is None else sigma_data
    path: Any = interpolants.build({"name": "ve", "sigma_max": sigma_max, "rho": rho})
    model = MatchingModel(couplings["independent"](), path, objectives["data"](), TimeDistribution(path.time(sigma_min), 1.0))

    def sigma(t: Tensor) -> Tensor:
        return sigma_max * t**rho

    defaults = families["diffusion"]().defaults(paired=False)
    moments = Moments(sigma_data**2)
    teacher = Teacher.from_callable(
        denoiser, model, moments=moments, normalization=normalization, defaults=defaults, arguments=arguments, time=sigma
    )
    network = describe(denoiser)
    if network is not None:
        levels = {"sigma_min": sigma_min, "sigma_max": sigma_max, "sigma_data": sigma_data, "rho": rho}
        teacher.origin = {"adapter": "edm", "network": network, "settings": {**levels, "arguments": list(arguments)}}
    return teacher


POINTS = 2**14  # of a table of noise levels
RHO = 7.0
MOST = 80.0  # ratio of noise to data at which sampling starts, at most: what is left of the data is far below their spread


class _Mean(nn.Module):
    """The mean of what a denoiser of azula answers with.

    Args:
        label: keyword of its labels; None where it has none.
    """

    def __init__(self, denoiser: nn.Module, label: str | None) -> None:
        super().__init__()
        self.denoiser, self.label = denoiser, label

    def forward(self, state: Tensor, time: Tensor, *label: Any) -> Tensor:
        given = {} if self.label is None else {self.label: label[0]}
        mean: Tensor = self.denoiser(state, time, **given).mean
        return mean


class _Levels:
    """Times of a schedule with scales alpha and sigma, by their ratio ``sigma / alpha``, which grows with time.

    Args:
        schedule: maps its times, ``(k,)``, to both scales.
        most: largest ratio that is asked for; the schedule's own largest where that is less.
    """

    def __init__(self, schedule: Callable[[Tensor], tuple[Tensor, Tensor]], most: float) -> None:
        self.schedule = schedule
        self.times = torch.linspace(0, torch.pi / 2, POINTS, dtype=torch.float64).sin().square()  # closest at both ends
        alpha, sigma = schedule(self.times)
        self.levels = sigma.log() - alpha.log()
        if not (self.levels.isfinite().all() and (self.levels.diff() > 0).all()):
            raise IncompatibleError("the denoiser's schedule must have a finite ratio sigma / alpha that grows with time")
        self.least, self.most = float(self.levels[0].exp()), min(float(self.levels[-1].exp()), most)

    def time(self, t: Tensor) -> Tensor:
        """Returns the schedule's time where the ratio is ``most t^rho``."""
        times, levels = self.times.to(t.device), self.levels.to(t.device)
        wanted = (math.log(self.most) + RHO * t.double().log()).clamp(levels[0], levels[-1])
        right = torch.searchsorted(levels, wanted).clamp(1, POINTS - 1)
        share = (wanted - levels[right - 1]) / (levels[right] - levels[right - 1])
        return torch.lerp(times[right - 1], times[right], share).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        """Returns the scale of the data there."""
        return self.schedule(self.time(t))[0]


def azula(
    denoiser: nn.Module, *, label: str | None = None, sigma_data: float = 1.0, normalization: tuple[float, float] | None = None
) -> Teacher:
    """Returns the teacher of a denoiser of azula, of whatever network and noise schedule.

    A state of the schedule is alpha times one with noise of standard deviation sigma / alpha, so every schedule is the path ``ve``.

    Args:
        denoiser: an ``azula.denoise.Denoiser``, which has a ``schedule`` and answers with a posterior mean.
        label: keyword under which it takes labels; None where it has none.
        sigma_data: standard deviation of the data in its units.
        normalization: as for ``Teacher``; (127.5, 127.5) for 8-bit images that were scaled to [-1, 1].

    Raises:
        IncompatibleError: it has no schedule, or one whose noise does not grow.
    """
    schedule = getattr(denoiser, "schedule", None)
    if not isinstance(denoiser, nn.Module) or not callable(schedule):
        raise IncompatibleError(f"azula takes a denoiser of azula, a module with a schedule, got {type(denoiser).__name__}")
    levels = _Levels(schedule, MOST * sigma_data)
    path: Any = interpolants.build({"name": "ve", "sigma_max": levels.most, "rho": RHO})
    model = MatchingModel(couplings["independent"](), path, objectives["data"](), TimeDistribution(path.time(levels.least), 1.0))
    return Teacher.from_callable(
        _Mean(denoiser, label),
        model,
        moments=Moments(sigma_data**2),
        normalization=normalization,
        defaults=families["diffusion"]().defaults(paired=False),
        arguments=("state", "time") if label is None else ("state", "time", "label"),
        time=levels.time,
        latent=levels.alpha,
    )
