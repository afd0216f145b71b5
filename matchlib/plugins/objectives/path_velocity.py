"""The velocity of the path without its noise.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
    https://arxiv.org/abs/2303.08797 (the velocity is this and c' times the noise's conditional mean)
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row
from matchlib.registries import objectives

__all__ = ["PathVelocity"]


@objectives.register("path-velocity")
@dataclass(frozen=True)
class PathVelocity(Objective):
    """Row (a', b', 0): finite where c' is not, so that a second head can carry the noise."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        velocity = at.velocity
        return Row(velocity.data, velocity.source)
