"""The drift of the time-reversed prior process, along decreasing t: what bridge matching learns.

References:
    Shi, De Bortoli, Campbell, Doucet, "Diffusion Schrödinger Bridge Matching", 2023, https://arxiv.org/abs/2303.16852
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from matchlib.algebra.interpolant import derivatives
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.algebra.rows import Coefficients, Row, Scalar
from matchlib.errors import IncompatibleError
from matchlib.registries import objectives

__all__ = ["Drift", "rates"]


def rates(interpolant: PriorInterpolant, t: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (f, g^2) of the prior dX = f X dt + g dW: f = alpha'/alpha, g^2 = var' - 2 f var, each ``(b,)``."""
    alpha, var = interpolant.prior(t)
    alpha_rate, var_rate = derivatives(interpolant.prior, t)
    f = alpha_rate / alpha
    return f, var_rate - 2 * f * var


@objectives.register("drift")
@dataclass(frozen=True)
class Drift(Objective):
    """Row of ``-f state - g^2 (state - alpha data)/var``, for a Brownian prior (data - state)/t; weight b^2 + c^2."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        interpolant = model.interpolant
        if not isinstance(interpolant, PriorInterpolant):
            raise IncompatibleError(f"{type(interpolant).__name__} has no prior process, so no drift to predict")
        f, g2 = rates(interpolant, at.time)
        alpha, var = interpolant.prior(at.time)
        return (-f - g2 / var) * at.state + Row(data=g2 * alpha / var)

    def weight(self, at: Coefficients) -> Scalar:
        return at.variance
