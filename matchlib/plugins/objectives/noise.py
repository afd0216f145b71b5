"""The interpolant's own noise.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants", 2023, https://arxiv.org/abs/2303.08797
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row
from matchlib.errors import IncompatibleError
from matchlib.registries import objectives

__all__ = ["Noise"]


@objectives.register("noise")
@dataclass(frozen=True)
class Noise(Objective):
    """Row (0, 0, 1), where c > 0; weight 1."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        if not model.interpolant.noisy:
            raise IncompatibleError(
                f"noise is not a prediction of {type(model.interpolant).__name__}: its c is zero, so the noise is unused"
            )
        return Row(noise=1.0)
