"""UID: universal inverse distillation, data-free.

References:
    "Universal Inverse Distillation for Matching Models with Real-Data Supervision (No GANs)", 2025, https://arxiv.org/abs/2509.22459
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.distillation.loss import BilinearLoss
from matchlib.registries import losses

__all__ = ["UID"]


@losses.register("uid")
@dataclass(frozen=True)
class UID(BilinearLoss):
    """``q(1, 1, 1)`` on generated points: the teacher's excess loss over that of the critic.

    Args:
        space: prediction in which the loss is taken; None means the teacher's own. It only changes the time weight.
        weight_power: exponent of the per-sample weight of the student's loss, >= 0.
    """

    space: str | None = None
    weight_power: float = 1.0
