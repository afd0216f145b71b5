"""Predictions: critic, teacher and target at the same points, in one prediction space."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from matchlib.algebra.records import Condition

__all__ = ["Predictions"]


@dataclass(frozen=True)
class Predictions:
    """Three vectors per point, and the point.

    Args:
        critic, teacher: predictions, shape ``(b, *event)``.
        target: the row on the point's own latents.
        weight: the time weight lambda(t) > 0, ``(b,)`` or a float; the same in every term of a loss.
        state: where the fields were evaluated, shape ``(b, *event)``.
        time: shape ``(b,)``.
        condition: what the fields saw besides.
    """

    critic: Tensor
    teacher: Tensor
    target: Tensor
    weight: Tensor | float
    state: Tensor
    time: Tensor
    condition: Condition = field(default_factory=Condition)

    def quadratic(self, square: float, teacher: float, target: float) -> Tensor:
        """Returns ``weight (-square |d|^2 + 2 <d, target c - teacher f*>)`` with ``d = critic - teacher``: shape ``(b,)``.

        Every bilinear distillation loss is a sum of these (Universal Inverse Distillation for Matching Models with Real-Data Supervision,
        2025, https://arxiv.org/abs/2509.22459).
        """
        d = self.critic - self.teacher
        bracket = torch.sub((2 * target) * self.target, self.teacher, alpha=2 * teacher).sub(d, alpha=square)
        return self.weight * (d * bracket).flatten(1).sum(1)

    def sample_weight(self, power: float) -> Tensor:
        """Returns ``(sqrt(weight) mean absolute error of the teacher)^(-power)`` per sample, without gradient: shape ``(b,)``.

        With power 1 this is the weight of Score identity Distillation (Zhou et al., 2024, https://arxiv.org/abs/2404.04057). The error is
        taken in the units of the weighted loss, so that the result does not diverge where the time weight does.
        """
        error = (self.target - self.teacher).detach().abs().flatten(1).mean(1) * self.weight**0.5
        return error.clamp_min(torch.finfo(error.dtype).tiny) ** -power
