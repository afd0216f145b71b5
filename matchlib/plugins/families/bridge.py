"""Bridge matching.

References:
    Shi, De Bortoli, Campbell, Doucet, "Diffusion Schrödinger Bridge Matching", 2023, https://arxiv.org/abs/2303.16852
    Zhou, Lou, Khanna, Ermon, "Denoising Diffusion Bridge Models", 2023, https://arxiv.org/abs/2309.16948
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import Times
from matchlib.distillation.family import NOISY, Family, Recipe
from matchlib.plugins.couplings.independent import Independent
from matchlib.plugins.couplings.paired import Paired
from matchlib.plugins.interpolants.brownian_bridge import BrownianBridge
from matchlib.plugins.objectives.data import Data
from matchlib.plugins.samplers.ancestral import Ancestral
from matchlib.registries import families

__all__ = ["Bridge"]


@families.register("bridge")
@dataclass(frozen=True)
class Bridge(Family):
    """A data prediction on Brownian bridges: from the data's own sources, which the field sees, or from a standard normal.

    Args:
        epsilon: variance of the Brownian motion at t = 1, > 0.
    """

    epsilon: float = 1.0

    def model(self, *, paired: bool) -> MatchingModel:
        coupling = Paired() if paired else Independent()
        return MatchingModel(coupling, BrownianBridge(self.epsilon), Data(), Times(1e-3, 1.0), sees_source=paired)

    def recipe(self, *, paired: bool) -> Recipe:
        return Recipe(
            sampler=Ancestral(steps=100),
            start=0.5 if paired else 1.0,
            times=None if paired else NOISY,
            student_rate=3e-4 if paired else 1e-3,
            critic_rate=1e-3 if paired else 2e-3,
        )
