"""Diffusion on the variance-preserving path with noise prediction.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
    Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2020, https://arxiv.org/abs/2011.13456
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import Times
from matchlib.distillation.family import NOISY, Family, Recipe
from matchlib.plugins.couplings.independent import Independent
from matchlib.plugins.interpolants.vp_linear import VPLinear
from matchlib.plugins.objectives.source import Source
from matchlib.plugins.samplers.ode import ODE
from matchlib.registries import families

__all__ = ["DiffusionVP"]


@families.register("diffusion-vp")
@dataclass(frozen=True)
class DiffusionVP(Family):
    """Epsilon prediction on the linear-beta path; t stops short of 0, where the velocity is singular."""

    def model(self, *, paired: bool) -> MatchingModel:
        return MatchingModel(Independent(), VPLinear(), Source(), Times(1e-3, 1.0))

    def recipe(self, *, paired: bool) -> Recipe:
        return Recipe(
            sampler=ODE(method="heun2", steps=50),
            start=0.35,
            times=NOISY,
            student_rate=3e-4,
            critic_rate=6e-4,
        )
