"""The reverse-time SDE with any diffusion level, by Euler-Maruyama.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants", 2023, https://arxiv.org/abs/2303.08797 (section 2.4)
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from matchlib.algebra.convert import conversion, view
from matchlib.algebra.interpolant import draw_like
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.rows import expand
from matchlib.errors import SettingError
from matchlib.plugins.objectives.data import Data
from matchlib.plugins.objectives.score import Score
from matchlib.plugins.objectives.velocity import Velocity
from matchlib.registries import samplers
from matchlib.sampling.base import CountedField, SampledField, Sampler, Samples
from matchlib.sampling.grid import check_steps, times_down
from matchlib.sampling.once import Once

__all__ = ["SDE"]


@samplers.register("sde")
@dataclass(frozen=True)
class SDE(Sampler):
    """Along decreasing t: d state = (-velocity + g2/2 score) ds + g dW, with g2 = level min(sigma, 1).

    ``sigma`` is the standard deviation of the noise that the score sees, the inverse length of its row: sqrt(b^2 + c^2) for an unseen
    Gaussian source, else c; so the drift stays finite where it vanishes. Every level has the same marginals; level 0 is the ODE. The
    last step ends with one denoising where ``times.low > 0``.

    Args:
        steps: evenly spaced in t, >= 1.
        level: size of the diffusion, >= 0.
    """

    steps: int = 100
    level: float = 1.0

    def __post_init__(self) -> None:
        check_steps("sde", self.steps)
        if not self.level >= 0:
            raise SettingError(f"sde: level must be at least 0, got {self.level}")

    @property
    def order(self) -> float:
        return 1.0

    def check(self, model: MatchingModel) -> None:
        for wanted in (Velocity(), Score(), *((Data(),) if model.times.low > 0 else ())):
            conversion(model, wanted).check_at(model.times.high)

    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        model, counted = of.model, CountedField(of.field)
        condition = model.condition(source, label)
        memory = Once(counted)
        velocity, score = view(memory, model, Velocity()), view(memory, model, Score())
        grid = times_down(model.times, self.steps, source)
        size = source.shape[:1]
        state = model.start(source, grid[0].expand(size), of.moments, generator=generator, remainder=1.0)
        for now, then in pairwise(grid):
            t, dt = now.expand(size), now - then
            at = model.interpolant.coefficients(t)
            memory.forget()
            row = Score().row(model, at)
            g2 = expand(self.level * torch.as_tensor(row.dot(row)).rsqrt().clamp(max=1.0).expand(size), state)
            drift = -velocity(state, t, condition) + 0.5 * g2 * score(state, t, condition)
            state = state + dt * drift + (g2 * dt).sqrt() * draw_like(state, generator)
        if model.times.low > 0:
            memory.forget()
            state = view(memory, model, Data())(state, grid[-1].expand(size), condition)
        return Samples(state, counted.nfe)
