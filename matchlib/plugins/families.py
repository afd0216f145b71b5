"""Families: named matching models, with the defaults that suit them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution
from matchlib.distillation.defaults import Defaults
from matchlib.distillation.family import Family
from matchlib.errors import SettingError
from matchlib.plugins.couplings import Independent, Paired
from matchlib.plugins.interpolants import VE, BrownianBridge, Linear, NoisyLinear, VPLinear
from matchlib.plugins.objectives import Data, Source, Velocity
from matchlib.plugins.samplers import ODE, SDE, Ancestral, Heun
from matchlib.registry import families

__all__ = ["Bridge", "Diffusion", "DiffusionVP", "Flow", "GaussianFamily", "StochasticInterpolant"]


@families.register("flow")
@dataclass(frozen=True)
class Flow(Family):
    """Velocity along straight lines from a standard normal source, or from the data's own sources.

    The field does not see the source: on a path without noise, state and source would tell it the data.

    References:
        Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow Matching for Generative Modeling", 2022, https://arxiv.org/abs/2210.02747
    """

    def model(self, *, paired: bool) -> MatchingModel:
        return MatchingModel(Paired() if paired else Independent(), Linear(), Velocity(), TimeDistribution())

    def defaults(self, *, paired: bool) -> Defaults:
        return Defaults(sampler=ODE(method="heun2", steps=25), high_noise=not paired)


@families.register("diffusion")
@dataclass(frozen=True)
class Diffusion(Family):
    """A preconditioned denoiser on the variance-exploding path, sigma log-normal in training, Heun on EDM's grid.

    Noise levels are relative to data of unit variance (EDM's numbers, for data of standard deviation 1/2, are halved).

    Args:
        sigma_min, sigma_max: noise levels between which the model is trained and sampled, 0 < sigma_min < sigma_max.

    Raises:
        SettingError: they are others.

    References:
        Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
        https://arxiv.org/abs/2206.00364
    """

    sigma_min: float = 0.01
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise SettingError(f"diffusion: 0 < sigma_min < sigma_max is required, got {self.sigma_min} and {self.sigma_max}")

    def model(self, *, paired: bool) -> MatchingModel:
        path = VE(self.sigma_max)
        return MatchingModel(Independent(), path, Data(), TimeDistribution(path.time(self.sigma_min), 1.0, (-0.5, 1.2)))

    def defaults(self, *, paired: bool) -> Defaults:
        return Defaults(
            sampler=Heun(steps=18),
            t_start=None,
            student_lr_scale=0.5,  # twice as much is no worse at one step, but falls apart through four
            critic_lr_scale=1.0,
        )


@families.register("diffusion-vp")
@dataclass(frozen=True)
class DiffusionVP(Family):
    """Epsilon prediction on the linear-beta path; t stops short of 0, where the velocity is singular.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
        Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2020, https://arxiv.org/abs/2011.13456
    """

    def model(self, *, paired: bool) -> MatchingModel:
        return MatchingModel(Independent(), VPLinear(), Source(), TimeDistribution(1e-3, 1.0))

    def defaults(self, *, paired: bool) -> Defaults:
        return Defaults(sampler=ODE(method="heun2", steps=50), t_start=None, student_lr_scale=0.3, critic_lr_scale=0.6)


@families.register("bridge")
@dataclass(frozen=True)
class Bridge(Family):
    """A data prediction on Brownian bridges: from the data's own sources, which the field sees, or from a standard normal.

    Args:
        epsilon: variance of the Brownian motion at t = 1, > 0.

    References:
        Shi, De Bortoli, Campbell, Doucet, "Diffusion Schrödinger Bridge Matching", 2023, https://arxiv.org/abs/2303.16852
        Zhou, Lou, Khanna, Ermon, "Denoising Diffusion Bridge Models", 2023, https://arxiv.org/abs/2309.16948
    """

    epsilon: float = 1.0

    def model(self, *, paired: bool) -> MatchingModel:
        coupling = Paired() if paired else Independent()
        return MatchingModel(coupling, BrownianBridge(self.epsilon), Data(), TimeDistribution(1e-3, 1.0), sees_source=paired)

    def defaults(self, *, paired: bool) -> Defaults:
        return Defaults(
            sampler=Ancestral(steps=100),
            t_start=0.5 if paired else 1.0,
            high_noise=not paired,
            student_lr_scale=0.3 if paired else 1.0,
            critic_lr_scale=1.0 if paired else 2.0,
        )


@families.register("interpolant")
@dataclass(frozen=True)
class StochasticInterpolant(Family):
    """A data prediction on a straight line with a free noise term: from the data's own sources, which the field sees, or from a normal one.

    A field that sees its source has, at t = 1, one answer for each: its samples are spread by the noise of the path, so they are drawn by
    the SDE, from a little before that end. The path's noise must outweigh the data there, c / a without bound, as that of a Brownian bridge
    does. A field that does not see a general source needs a second head (``joint``).

    Args:
        scale: of the noise at t = 1/2, > 0.

    References:
        Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
        https://arxiv.org/abs/2303.08797
    """

    scale: float = 0.5

    def model(self, *, paired: bool) -> MatchingModel:
        if paired:
            path = BrownianBridge(4 * self.scale**2)  # c = scale at t = 1/2
            return MatchingModel(Paired(), path, Data(), TimeDistribution(1e-3, 0.99), sees_source=True)
        return MatchingModel(Independent(), NoisyLinear(self.scale), Data(), TimeDistribution(1e-3, 1.0))

    def defaults(self, *, paired: bool) -> Defaults:
        if paired:
            return Defaults(sampler=SDE(steps=100), t_start=0.5, high_noise=False, student_lr_scale=0.3, critic_lr_scale=1.0)
        return Defaults(sampler=ODE(method="heun2", steps=25))


@families.register("gaussian")
@dataclass(frozen=True)
class GaussianFamily(Family):
    """Another family's model with the exact field of a Gaussian mixture as the teacher: nothing is trained, and the optimum is known.

    Args:
        like: name of the family whose model and defaults are taken.
        distribution: settings of the network ``gaussian``: ``components`` of a fit to the data, or ``mean`` and ``std``.
    """

    like: str = "flow"
    distribution: Mapping[str, Any] = field(default_factory=dict)

    def model(self, *, paired: bool) -> MatchingModel:
        return families[self.like]().model(paired=paired)

    def defaults(self, *, paired: bool) -> Defaults:
        return families[self.like]().defaults(paired=paired)

    def network(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"name": "gaussian", **self.distribution}
