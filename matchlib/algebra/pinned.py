"""Gaussian processes pinned at both ends: the one home of the bridge formula.

A linear prior process carries data x to N(alpha_t x, var_t). Given the data and the state at a later time t, its state at s < t is
Gaussian. That conditional distribution has three uses: a bridge's coefficients (t = 1), the ancestral step of diffusion, and the posterior
step of a bridge.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239 (ancestral steps)
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from matchlib.algebra.interpolant import Interpolant, ScheduledInterpolant, draw_like
from matchlib.algebra.rows import Row, Scalar

__all__ = ["PinnedInterpolant", "PriorInterpolant", "pin"]


def pin(early: tuple[Tensor, Tensor], step: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (weight of the data, weight of the late state, variance) of the state at s given data and the state at t > s.

    Args:
        early: (alpha, var) of the process at s, each ``(b,)``.
        step: (slope, variance) of the process from s to t, each ``(b,)``.
    """
    (alpha, var), (slope, added) = early, step
    late = slope * slope * var + added  # variance at t
    return alpha * added / late, slope * var / late, var * added / late


class PriorInterpolant(Interpolant):
    """An interpolant whose path is a linear process run from the data, given as ``prior``; its transitions are the exact posterior."""

    @abstractmethod
    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (alpha, var) of the process at ``t``: state ~ N(alpha data, var), elementwise in t."""

    def step(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (slope, variance) of the process from s to t > s: state at t ~ N(slope * state at s, variance)."""
        (alpha_s, var_s), (alpha_t, var_t) = self.prior(s), self.prior(t)
        slope = alpha_t / alpha_s
        return slope, (var_t - slope * slope * var_s).clamp_min(0.0)  # rounding alone can make it negative, at s = t

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
        """Draws from the posterior of the process given data and state; the source tells nothing more (Markov property)."""
        del source
        weight_data, weight_state, variance = pin(self.prior(s), self.step(s, t))
        return Row(weight_data, weight_state, variance.sqrt())(data, state, draw_like(state, generator))


class PinnedInterpolant(PriorInterpolant, ScheduledInterpolant):
    """A bridge: the prior process pinned at the data (t = 0) and at the source (t = 1)."""

    def schedule(self, t: Tensor) -> tuple[Scalar, Scalar, Scalar]:
        a, b, variance = pin(self.prior(t), self.step(t, torch.ones_like(t)))
        return a, b, variance.sqrt()
