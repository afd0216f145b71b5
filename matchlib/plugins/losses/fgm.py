"""Flow generator matching.

References:
    Huang, Geng, Luo, Qi, "Flow Generator Matching", 2024, https://arxiv.org/abs/2410.19310
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.distillation.loss import BilinearLoss, Weights
from matchlib.registries import losses

__all__ = ["FGM"]


@losses.register("fgm")
@dataclass(frozen=True)
class FGM(BilinearLoss):
    """``2 <teacher - critic, critic - target>`` in velocity space (the part L2 that its authors train): ``q(2, 1, 1)`` for the student.

    Args:
        space: as in UID.
        weight_power: exponent of the per-sample weight of the student's loss, >= 0.
    """

    space: str | None = "velocity"
    weight_power: float = 1.0

    @property
    def student(self) -> Weights:
        return Weights(2.0, 1.0, 1.0)
