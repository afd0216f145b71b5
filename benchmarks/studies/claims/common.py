"""What the claims share: the four families, averages over a model's own times, and where a student ends."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from matchlib import families, objectives
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution
from matchlib.distillation.loss import BilinearLoss
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.plugins.losses import RealUID
from matchlib.testing.world import World, least

torch.set_num_threads(1)
NODES, SIDE = 24, 301
FAMILIES = ("flow", "diffusion", "diffusion-vp", "bridge", "interpolant")


def realuid(alpha: float = 1.0, beta: float = 1.0, gamma: float | None = None) -> RealUID:
    """A RealUID loss without per-sample weight: the one whose optimum the theory speaks of."""
    return RealUID(alpha, beta, gamma, weight_power=0.0)


@lru_cache(maxsize=64)
def model_of(family: str, space: str | None = None) -> MatchingModel:
    """A family's model with its distillation times, away from the two ends, in its own space or another."""
    model = families[family]().model(paired=False)
    times = replace(model.times, log_sigma=(0.5, 1.0))  # high noise, for data of about unit scale
    model = replace(model, times=TimeDistribution(max(times.t_min, 0.02), min(times.t_max, 0.98), times.log_sigma))
    return model if space is None else replace(model, objective=objectives[space]())


@lru_cache(maxsize=64)
def nodes_of(model: MatchingModel) -> tuple[float, ...]:
    """Evenly spread quantiles of the model's density of time."""
    like = torch.zeros(NODES, dtype=torch.float64)
    t = model.times.sample(model.interpolant, like, torch.Generator().manual_seed(0))
    return tuple(sorted(t.tolist()))


def average(model: MatchingModel, loss: BilinearLoss, real: Mixture, made: Mixture, teacher: Mixture) -> Tensor:
    """The value of a loss averaged over the model's times; the teacher is the exact field of a law."""
    field = GaussianField(model, teacher)
    worlds = (World(model, real, made, t, field, side=SIDE) for t in nodes_of(model))
    values = [world.value(loss) for world in worlds]
    return torch.stack(values).mean()


def end_of(
    model: MatchingModel,
    loss: BilinearLoss,
    real: tuple[float, float],
    teacher: tuple[float, float],
) -> tuple[float, float, float]:
    """Mean and standard deviation of the Gaussian student at the optimum, and the value there."""
    laws = [Mixture.normal(*numbers) for numbers in (real, teacher)]

    def value(knobs: Tensor) -> Tensor:
        return average(model, loss, laws[0], Mixture.normal(knobs[0], knobs[1].exp()), laws[1])

    start = (0.5 * (real[0] + teacher[0]), float(torch.tensor(0.5 * (real[1] + teacher[1])).log()))
    (mean, log_std), lowest = least(value, start)
    return mean, float(torch.tensor(log_std, dtype=torch.float64).exp()), lowest


__all__ = ["FAMILIES", "average", "end_of", "model_of", "nodes_of", "realuid"]
