"""Exact posterior steps: predict the data, then draw the next state from the interpolant's own transition.

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from matchlib.algebra.convert import conversion, view
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.errors import IncompatibleError
from matchlib.plugins.objectives.data import Data
from matchlib.registries import samplers
from matchlib.sampling.base import CountedField, SampledField, Sampler, Samples
from matchlib.sampling.clipped import Clipped
from matchlib.sampling.grid import check_steps, times_down

__all__ = ["Ancestral"]


@samplers.register("ancestral")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """``steps`` data predictions; the last one is returned.

    For paths that are a process of their own (diffusion, bridges). Elsewhere a transition draws afresh what the data leave open, which
    suits a generator's sharp samples but not a mean: with it, a teacher's samples would lose variance however many the steps.

    Args:
        steps: evenly spaced in t, >= 1; one evaluation each.
        clip: whether predicted data are clipped to the limits of the data, so that a network's mistakes do not grow from step to step.
    """

    steps: int = 100
    clip: bool = False

    def __post_init__(self) -> None:
        check_steps("ancestral", self.steps)

    @property
    def order(self) -> float:
        return 1.0

    def check(self, model: MatchingModel) -> None:
        if not isinstance(model.interpolant, PriorInterpolant):
            raise IncompatibleError(
                f"ancestral steps need a path that is a process of its own, which {type(model.interpolant).__name__} is not; "
                "use the sampler ode or sde"
            )
        conversion(model, Data())

    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        model, counted = of.model, CountedField(of.field)
        self.check(model)
        condition = model.condition(source, label)
        predict = Clipped(view(counted, model, Data()), of.limits if self.clip else None)
        grid = times_down(model.times, self.steps, source)
        size = source.shape[:1]
        state = model.start(source, grid[0].expand(size), of.moments, generator=generator)
        for now, then in pairwise(grid[:-1]):
            data = predict(state, now.expand(size), condition)
            known = model.coupling.partner(data, source)
            state = model.interpolant.transition(state, data, now.expand(size), then.expand(size), source=known, generator=generator)
        return Samples(predict(state, grid[-2].expand(size), condition), counted.nfe)
