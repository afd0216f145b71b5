"""The source: the epsilon-prediction of diffusion where the source is Gaussian and there is no other noise.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row
from matchlib.registries import objectives

__all__ = ["Source"]


@objectives.register("source")
@dataclass(frozen=True)
class Source(Objective):
    """Row (0, 1, 0); weight 1."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        del model, at
        return Row(source=1.0)
