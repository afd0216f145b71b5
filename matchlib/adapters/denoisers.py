"""Networks with EDM's preconditioning.

References:
    Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
    https://arxiv.org/abs/2206.00364 (table 1)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from matchlib.adapters.networks import describe
from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.rows import plus, scaled
from matchlib.algebra.times import TimeDistribution
from matchlib.fields.teacher import Teacher
from matchlib.registry import couplings, families, interpolants, objectives

__all__ = ["EDMPrecond", "edm"]


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
