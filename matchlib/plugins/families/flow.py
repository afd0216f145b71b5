"""Flow matching.

References:
    Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow Matching for Generative Modeling", 2022, https://arxiv.org/abs/2210.02747
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import Times
from matchlib.distillation.family import NOISY, Family, Recipe
from matchlib.plugins.couplings.independent import Independent
from matchlib.plugins.couplings.paired import Paired
from matchlib.plugins.interpolants.linear import Linear
from matchlib.plugins.objectives.velocity import Velocity
from matchlib.plugins.samplers.ode import ODE
from matchlib.registries import families

__all__ = ["Flow"]


@families.register("flow")
@dataclass(frozen=True)
class Flow(Family):
    """Velocity along straight lines from a standard normal source, or from the data's own sources.

    The field does not see the source: on a path without noise, state and source would tell it the data.
    """

    def model(self, *, paired: bool) -> MatchingModel:
        return MatchingModel(Paired() if paired else Independent(), Linear(), Velocity(), Times())

    def recipe(self, *, paired: bool) -> Recipe:
        return Recipe(sampler=ODE(method="heun2", steps=25), times=None if paired else NOISY)
