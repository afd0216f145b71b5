"""The state's time derivative: what an ODE sampler integrates.

References:
    Lipman et al., "Flow Matching for Generative Modeling", 2022, https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row
from matchlib.registries import objectives

__all__ = ["Velocity"]


@objectives.register("velocity")
@dataclass(frozen=True)
class Velocity(Objective):
    """Row (a', b', c'); weight 1."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        del model
        return at.velocity
