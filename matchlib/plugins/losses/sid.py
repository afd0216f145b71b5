"""Score identity distillation.

References:
    Zhou, Zheng, Wang, Yin, Huang, "Score identity Distillation: Exponentially Fast Distillation of Pretrained Diffusion Models for
    One-Step Generation", 2024, https://arxiv.org/abs/2404.04057
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.distillation.loss import BilinearLoss, Weights
from matchlib.registries import losses

__all__ = ["SiD"]


@losses.register("sid")
@dataclass(frozen=True)
class SiD(BilinearLoss):
    """``w (-a |d|^2 + <d, data - teacher>)`` in data space, w the reciprocal of the teacher's mean absolute error at the sample.

    Args:
        a: weight of |d|^2 (the paper's alpha; 1.2 and 1.0 are its choices); only a = 1/2 has the gradient of the divergence.
        space: as in UID.
        weight_power: exponent of w, >= 0.
    """

    a: float = 1.2
    space: str | None = "data"
    weight_power: float = 1.0

    @property
    def student(self) -> Weights:
        return Weights(self.a, 0.5, 0.5)
