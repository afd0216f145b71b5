"""Steps that join the predicted latents again at the next time.

References:
    Song, Meng, Ermon, "Denoising Diffusion Implicit Models", 2020, https://arxiv.org/abs/2010.02502 (the case of one Gaussian source)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from matchlib.algebra.convert import conversion, view
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.plugins.objectives.data import Data
from matchlib.plugins.objectives.noise import Noise
from matchlib.plugins.objectives.source import Source
from matchlib.registries import samplers
from matchlib.sampling.base import CountedField, SampledField, Sampler, Samples
from matchlib.sampling.clipped import Clipped
from matchlib.sampling.grid import check_steps, times_down
from matchlib.sampling.once import Once

__all__ = ["DDIM"]


@samplers.register("ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """state_s = a(s) data + b(s) source + c(s) noise, with the latents that the field predicts from the state at t.

    A step of the probability-flow ODE in which no coefficient is differentiated: where c' or b' is infinite, as at the ends of a bridge, it
    stays finite. It needs a field that determines every latent. A model with ``times.low > 0`` ends with one denoising.

    Args:
        steps: evenly spaced in t, >= 1; one evaluation each.
        clip: whether predicted data are clipped to the limits of the data, so that a network's mistakes do not grow from step to step.
    """

    steps: int = 50
    clip: bool = False

    def __post_init__(self) -> None:
        check_steps("ddim", self.steps)

    @property
    def order(self) -> float:
        return 1.0

    @staticmethod
    def latents(model: MatchingModel) -> tuple[Objective, ...]:
        """Returns the latents that the path is made of."""
        return (Data(), Source(), *((Noise(),) if model.interpolant.noisy else ()))

    def check(self, model: MatchingModel) -> None:
        for wanted in self.latents(model):
            conversion(model, wanted).check_at(model.times.high)

    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        model, counted = of.model, CountedField(of.field)
        condition = model.condition(source, label)
        memory = Once(counted)
        predict, *others = (view(memory, model, wanted) for wanted in self.latents(model))
        predict = Clipped(predict, of.limits if self.clip else None)
        grid = times_down(model.times, self.steps, source)
        size = source.shape[:1]
        state = model.start(source, grid[0].expand(size), of.moments, generator=generator, remainder=1.0)
        for now, then in pairwise(grid):
            memory.forget()
            data, from_, *noise = (read(state, now.expand(size), condition) for read in (predict, *others))
            state = model.interpolant.coefficients(then.expand(size)).state(data, from_, *noise or (None,))
        if model.times.low > 0:
            memory.forget()
            state = predict(state, grid[-1].expand(size), condition)
        return Samples(state, counted.nfe)
