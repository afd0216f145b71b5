"""The data themselves (x0-prediction, denoiser).

References:
    Salimans, Ho, "Progressive Distillation", 2022, https://arxiv.org/abs/2202.00512 (the weight "SNR + 1")
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row, Scalar
from matchlib.registries import objectives

__all__ = ["Data"]


@objectives.register("data")
@dataclass(frozen=True)
class Data(Objective):
    """Row (1, 0, 0); weight 1 + a^2/(b^2 + c^2), so that the error stays of order one at every noise level."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        del model, at
        return Row(data=1.0)

    def weight(self, at: Coefficients) -> Scalar:
        return 1.0 + at.a * at.a / at.variance
