"""Interpolants: how a pair is joined, ``state = a(t) data + b(t) source + c(t) noise``.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
    https://arxiv.org/abs/2303.08797
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from matchlib.algebra.rows import Coefficients, Scalar, scaled

__all__ = ["Interpolant", "ScheduledInterpolant", "draw_like"]


def draw_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns standard-normal noise with the shape, type and device of ``like``."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


class Interpolant(ABC):
    """A path from data (t = 0) to source (t = 1).

    Attributes:
        noisy: whether c is anything but identically zero.
        low, high: the ends of the open interval in which every coefficient and its derivative is finite.
    """

    noisy: ClassVar[bool] = False
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Returns a, b, c and their derivatives at times ``t`` of shape ``(b,)``."""

    def transition(
        self,
        state: Tensor,
        data: Tensor,
        t: Tensor,
        s: Tensor,
        *,
        source: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """Draws the state at ``s < t`` given the state at ``t`` and (a prediction of) the data.

        The law of one state given another is not fixed by a, b and c. This default draws afresh what the data leave open: the source
        is kept if it is known and else standard normal, the noise is new. It has the right law at every single time.

        Args:
            state, data: shape ``(b, *event)``.
            t, s: shape ``(b,)``.
            source: shape ``(b, *event)`` if it is known.

        Returns:
            The state at ``s``, shape ``(b, *event)``.
        """
        del state, t
        source = draw_like(data, generator) if source is None else source
        noise = draw_like(data, generator) if self.noisy else None
        return self.coefficients(s).state(data, source, noise)


class ScheduledInterpolant(Interpolant):
    """An interpolant stated by one function; derivatives come by forward-mode differentiation."""

    @abstractmethod
    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        """Returns (a, b, c) at ``t``, elementwise in t; a coefficient that is constant may be a float."""

    def coefficients(self, t: Tensor) -> Coefficients:
        with forward_ad.dual_level():
            values = self.schedule(forward_ad.make_dual(t, torch.ones_like(t)))
            parts = [_unpack(value) for value in values]
        (a, a_dot), (b, b_dot), (c, c_dot) = parts
        return Coefficients(t, a, b, c, a_dot, b_dot, c_dot)


def _unpack(value: Scalar) -> tuple[Scalar, Scalar]:
    if isinstance(value, float):
        return value, 0.0
    primal, tangent = forward_ad.unpack_dual(value)
    return primal, 0.0 if tangent is None else tangent


def gaussian_step(weights: tuple[Scalar, Scalar], std: Scalar, *, state: Tensor, data: Tensor, generator: torch.Generator) -> Tensor:
    """Draws N(weights[0] state + weights[1] data, std^2), the form of every Gaussian posterior step."""
    mean = scaled(weights[0], state) + scaled(weights[1], data)
    return mean + scaled(std, draw_like(mean, generator))
