"""Inverse bridge matching distillation: UID in the score of the bridge's prior process.

References:
    Gushchin, Selikhanovych, Kholkin, Burnaev, Korotin, "Inverse Bridge Matching Distillation", 2025, https://arxiv.org/abs/2502.01362
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.distillation.loss import BilinearLoss
from matchlib.registries import losses

__all__ = ["IBMD"]


@losses.register("ibmd")
@dataclass(frozen=True)
class IBMD(BilinearLoss):
    """``q(1, 1, 1)`` with the target ``-(state - alpha_t data)/sigma_t^2``, alpha_t and sigma_t those of the prior.

    Args:
        space: as in UID.
        weight_power: exponent of the per-sample weight of the student's loss, >= 0.
    """

    space: str | None = "prior-score"
    weight_power: float = 1.0
