"""The score, the gradient of the logarithm of the state's density.

References:
    Vincent, "A Connection Between Score Matching and Denoising Autoencoders", 2011, https://doi.org/10.1162/NECO_a_00142
    Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2020, https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row, Scalar
from matchlib.errors import IncompatibleError
from matchlib.registries import objectives

__all__ = ["Score"]


@objectives.register("score")
@dataclass(frozen=True)
class Score(Objective):
    """Row (0, -b, -c)/(b^2 + c^2) with an unseen independent Gaussian source, else (0, 0, -1/c); weight b^2 + c^2.

    The two rows are equal up to a relation, so either is the score where both exist; the first stays finite where c vanishes.
    """

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        if model.gaussian:
            return Row(0.0, at.b / at.variance * -1.0, at.c / at.variance * -1.0)
        if model.interpolant.noisy:
            return Row(noise=-1.0 / at.c)
        raise IncompatibleError(
            f"{type(model.interpolant).__name__} with {type(model.coupling).__name__} has no score to predict: "
            "the source is not an unseen independent Gaussian, and c is zero"
        )

    def weight(self, at: Coefficients) -> Scalar:
        return at.variance
