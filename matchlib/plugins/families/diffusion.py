"""Diffusion as EDM states it.

References:
    Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
    https://arxiv.org/abs/2206.00364
"""

from __future__ import annotations

from dataclasses import dataclass

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import Times
from matchlib.distillation.family import NOISY, Family, Recipe
from matchlib.plugins.couplings.independent import Independent
from matchlib.plugins.interpolants.ve import VE
from matchlib.plugins.objectives.data import Data
from matchlib.plugins.samplers.ode import ODE
from matchlib.registries import families

__all__ = ["Diffusion"]


@families.register("diffusion")
@dataclass(frozen=True)
class Diffusion(Family):
    """A preconditioned denoiser on the variance-exploding path, sigma log-normal in training, Heun on EDM's grid.

    Noise levels are relative to data of unit variance (EDM's numbers, for data of standard deviation 1/2, are halved).

    Args:
        sigma_min, sigma_max: noise levels between which the model is trained and sampled.
    """

    sigma_min: float = 0.01
    sigma_max: float = 80.0

    def model(self, *, paired: bool) -> MatchingModel:
        path = VE(self.sigma_max)
        return MatchingModel(Independent(), path, Data(), Times(path.time(self.sigma_min), 1.0, (-0.5, 1.2)))

    def recipe(self, *, paired: bool) -> Recipe:
        path = VE(self.sigma_max)
        rates = {"student_rate": 5e-4, "critic_rate": 1e-3}  # twice as much is no worse at one step, but falls apart through four
        return Recipe(sampler=ODE(method="heun2", steps=18), start=path.time(2.5), times=NOISY, **rates)
