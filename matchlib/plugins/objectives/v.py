"""The v-prediction of progressive distillation.

References:
    Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, https://arxiv.org/abs/2202.00512
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row
from matchlib.registries import objectives

__all__ = ["V"]


@objectives.register("v")
@dataclass(frozen=True)
class V(Objective):
    """Row (-b, a, 0), that is a source - b data; weight 1."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        del model
        return Row(data=-1.0 * at.b, source=at.a)
