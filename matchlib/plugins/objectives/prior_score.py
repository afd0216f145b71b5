"""The score of the prior process's transition from the data: the target of inverse bridge matching distillation.

References:
    Gushchin, Selikhanovych, Kholkin, Burnaev, Korotin, "Inverse Bridge Matching Distillation", 2025, https://arxiv.org/abs/2502.01362
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.algebra.rows import Coefficients, Row, Scalar
from matchlib.errors import IncompatibleError
from matchlib.registries import objectives

__all__ = ["PriorScore"]


@objectives.register("prior-score")
@dataclass(frozen=True)
class PriorScore(Objective):
    """Row of ``-(state - alpha data)/var``, alpha and var those of the prior, not of the pinned bridge; weight b^2 + c^2."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        if not isinstance(model.interpolant, PriorInterpolant):
            raise IncompatibleError(f"{type(model.interpolant).__name__} has no prior process, so no score of one")
        alpha, var = model.interpolant.prior(at.time)
        return (-1.0 / var) * at.state + Row(data=alpha / var)

    def weight(self, at: Coefficients) -> Scalar:
        return at.variance
