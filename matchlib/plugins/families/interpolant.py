"""Stochastic interpolants.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
    https://arxiv.org/abs/2303.08797
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import Times
from matchlib.distillation.family import NOISY, Family, Recipe
from matchlib.plugins.couplings.independent import Independent
from matchlib.plugins.couplings.paired import Paired
from matchlib.plugins.interpolants.noisy_linear import NoisyLinear
from matchlib.plugins.objectives.data import Data
from matchlib.plugins.samplers.ode import ODE
from matchlib.plugins.samplers.sde import SDE
from matchlib.registries import families

__all__ = ["StochasticInterpolant"]


@families.register("interpolant")
@dataclass(frozen=True)
class StochasticInterpolant(Family):
    """A data prediction on a straight line with a free noise term: from the data's own sources, which the field sees, or from a normal one.

    A field that sees its source has, at t = 1, one answer for each: its samples are spread by the noise of the path, so they are drawn by
    the SDE, from a little before that end. A field that does not see a general source needs a second head (``joint``).

    Args:
        scale: of the noise at t = 1/2, > 0.
    """

    scale: float = 0.5

    def model(self, *, paired: bool) -> MatchingModel:
        coupling = Paired() if paired else Independent()
        return MatchingModel(coupling, NoisyLinear(self.scale), Data(), Times(1e-3, 0.98 if paired else 1.0), sees_source=paired)

    def recipe(self, *, paired: bool) -> Recipe:
        if paired:
            return Recipe(sampler=SDE(steps=100), start=0.5, student_rate=3e-4, critic_rate=1e-3)
        return Recipe(sampler=ODE(method="heun2", steps=25), times=NOISY)
