"""Interpolants: how a pair is joined, ``state = a(t) data + b(t) source + c(t) noise``.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
    https://arxiv.org/abs/2303.08797
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.algebra.rows import Coefficients, Scalar, is_zero
from matchlib.errors import SettingError

__all__ = ["Interpolant", "ScheduledInterpolant", "differentiate", "draw_like"]


def draw_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Returns standard-normal noise with the shape, type and device of ``like``."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)


class Interpolant(ABC):
    """A path from data (t = 0) to source (t = 1).

    Attributes:
        t_min, t_max: the ends of the open interval in which every coefficient and its derivative is finite.
        examples: further settings that the laws try; each must change the path.
    """

    t_min: ClassVar[float] = 0.0
    t_max: ClassVar[float] = 1.0
    examples: ClassVar[tuple[dict[str, Any], ...]] = ()

    @abstractmethod
    def coefficients(self, t: Tensor) -> Coefficients:
        """Returns a, b, c and their derivatives at times ``t`` of shape ``(b,)``."""

    @cached_property
    def noisy(self) -> bool:
        """Whether the path has noise: c is anything but the float 0.0, which means identically zero.

        A tensor of zeros counts as noise.
        """
        middle = torch.tensor([0.5 * (self.t_min + self.t_max)], dtype=torch.float64)
        return not is_zero(self.coefficients(middle).c)

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

        The distribution of one state given another is not fixed by a, b and c. This default draws afresh what the data leave open: the
        source is kept if it is known and else standard normal, the noise is new. It has the right distribution at every single time.

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
    """An interpolant stated by one function, elementwise in t; derivatives come by differentiating it."""

    @abstractmethod
    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        """Returns (a, b, c) at ``t``, elementwise in t; a coefficient that is constant may be a float."""

    def coefficients(self, t: Tensor) -> Coefficients:
        values = self.schedule(t)
        if len(values) != 3:
            raise SettingError(
                f"schedule of {type(self).__name__} returns a, b and c, got {len(values)} values; c is 0.0 for a path without noise"
            )
        return Coefficients(t, *values, derivatives=lambda: differentiate(self.schedule, t))


def differentiate(function: Callable[[Tensor], tuple[Scalar, ...]], t: Tensor) -> tuple[Any, ...]:
    """Returns the derivative of each value of a function that is elementwise in ``t``; exactly 0.0 for what does not depend on it.

    By reverse-mode differentiation of the sum: torch's forward mode costs milliseconds a call.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        t = t.detach().clone().requires_grad_(True)
        values = function(t)
        return tuple(
            torch.autograd.grad(value.sum(), t, retain_graph=True)[0] if isinstance(value, Tensor) and value.requires_grad else 0.0
            for value in values
        )
