"""Samplers: how a many-step teacher is sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from matchlib.algebra.convert import conversion, view
from matchlib.algebra.interpolant import draw_like
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.pinned import PriorInterpolant
from matchlib.algebra.rows import expand
from matchlib.errors import IncompatibleError, SettingError, nearest
from matchlib.fields.sampler import CachedField, ClippedField, CountedField, SampledField, Sampler, Samples, check_steps, times_down
from matchlib.plugins.objectives import Data, Noise, Score, Source, Velocity
from matchlib.registry import samplers

__all__ = ["DDIM", "ODE", "SDE", "Ancestral"]

FIXED: dict[str, float | None] = {
    "euler": 1.0,
    "midpoint": 2.0,
    "heun2": 2.0,
    "heun3": 3.0,
    "rk4": 4.0,
    "explicit_adams": None,  # unstable with few steps
    "implicit_adams": 4.0,
    "fixed_adams": 4.0,
}  # and their orders


ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun", "scipy_solver")


METHODS = (*FIXED, *ADAPTIVE)


@samplers.register("ode")
@dataclass(frozen=True)
class ODE(Sampler):
    """Integrates d state/dt = velocity from ``times.t_max`` to ``times.t_min``; a model with ``times.t_min > 0`` ends with one denoising.

    Args:
        method: any of torchdiffeq's: euler, midpoint, heun2, heun3, rk4, explicit_adams, implicit_adams, fixed_adams (fixed steps);
            dopri5, dopri8, bosh3, fehlberg2, adaptive_heun, scipy_solver (adaptive).
        steps: of a fixed-step method, evenly spaced in t, >= 1; adaptive methods choose their own.
        rtol, atol: tolerances of an adaptive method, > 0.

    References:
        Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", 2018, https://arxiv.org/abs/1806.07366
    """

    method: str = "heun2"
    steps: int = 25
    rtol: float = 1e-4
    atol: float = 1e-4

    def __post_init__(self) -> None:
        check_steps("ode", self.steps)
        if self.method not in METHODS:
            raise SettingError(f"ode: method must be one of {', '.join(METHODS)}, got {self.method!r}{nearest(self.method, METHODS)}")
        if not (self.rtol > 0 and self.atol > 0):
            raise SettingError(f"ode: rtol and atol must be positive, got {self.rtol}, {self.atol}")

    @property
    def order(self) -> float | None:
        return FIXED.get(self.method)

    def check(self, model: MatchingModel) -> None:
        velocity = conversion(model, Velocity())
        velocity.check_at(model.times.t_min)
        velocity.check_at(model.times.t_max)
        if model.times.t_min > 0:
            conversion(model, Data())

    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        model, counted = of.model, CountedField(of.field)
        condition = model.condition(source, label)
        velocity: nn.Module = view(counted, model, Velocity())
        size = source.shape[:1]

        def derivative(t: Tensor, state: Tensor) -> Tensor:
            return velocity(state, t.to(state.dtype).expand(size), condition)

        ends = torch.tensor([model.times.t_max, model.times.t_min], dtype=source.dtype, device=source.device)
        start = model.start(source, ends[0].expand(size), of.moments, generator=generator, remainder=1.0)
        options = {"grid_constructor": self._grid} if self.method in FIXED else None
        state = odeint(derivative, start, ends, method=self.method, rtol=self.rtol, atol=self.atol, options=options)[-1]
        if model.times.t_min > 0:
            state = view(counted, model, Data())(state, ends[1].expand(size), condition)
        return Samples(state, counted.nfe)

    def _grid(self, f: Callable[..., Any], y0: Tensor, t: Tensor) -> Tensor:
        """The ``steps + 1`` points of a fixed grid between the two ends that torchdiffeq was given."""
        del f, y0
        return torch.lerp(t[0], t[-1], torch.linspace(0, 1, self.steps + 1, dtype=t.dtype, device=t.device))


@samplers.register("sde")
@dataclass(frozen=True)
class SDE(Sampler):
    """Along decreasing t: d state = (-velocity + g2/2 score) ds + g dW, with g2 = level min(sigma, 1).

    ``sigma`` is the standard deviation of the noise that the score sees, the inverse length of its row: sqrt(b^2 + c^2) for an unseen
    Gaussian source, else c; so the drift stays finite where it vanishes. Every level has the same marginals; level 0 is the ODE. The
    last step ends with one denoising where ``times.t_min > 0``.

    Args:
        steps: evenly spaced in t, >= 1.
        level: size of the diffusion, >= 0.

    References:
        Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants", 2023, https://arxiv.org/abs/2303.08797 (section 2.4)
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
        for wanted in (Velocity(), Score(), *((Data(),) if model.times.t_min > 0 else ())):
            conversion(model, wanted).check_at(model.times.t_max)

    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        model, counted = of.model, CountedField(of.field)
        condition = model.condition(source, label)
        memory = CachedField(counted)
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
        if model.times.t_min > 0:
            memory.forget()
            state = view(memory, model, Data())(state, grid[-1].expand(size), condition)
        return Samples(state, counted.nfe)


@samplers.register("ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """state_s = a(s) data + b(s) source + c(s) noise, with the latents that the field predicts from the state at t.

    A step of the probability-flow ODE in which no coefficient is differentiated: where c' or b' is infinite, as at the ends of a bridge, it
    stays finite. It needs a field that determines every latent. A model with ``times.t_min > 0`` ends with one denoising.

    Args:
        steps: evenly spaced in t, >= 1; one evaluation each.
        clip: whether predicted data are clipped to the limits of the data, so that a network's mistakes do not grow from step to step.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", 2020, https://arxiv.org/abs/2010.02502 (the case of one Gaussian source)
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
            conversion(model, wanted).check_at(model.times.t_max)

    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        model, counted = of.model, CountedField(of.field)
        condition = model.condition(source, label)
        memory = CachedField(counted)
        predict, *others = (view(memory, model, wanted) for wanted in self.latents(model))
        predict = ClippedField(predict, of.limits if self.clip else None)
        grid = times_down(model.times, self.steps, source)
        size = source.shape[:1]
        state = model.start(source, grid[0].expand(size), of.moments, generator=generator, remainder=1.0)
        for now, then in pairwise(grid):
            memory.forget()
            data, from_, *noise = (read(state, now.expand(size), condition) for read in (predict, *others))
            state = model.interpolant.coefficients(then.expand(size)).state(data, from_, *noise or (None,))
        if model.times.t_min > 0:
            memory.forget()
            state = predict(state, grid[-1].expand(size), condition)
        return Samples(state, counted.nfe)


@samplers.register("ancestral")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """``steps`` data predictions; the last one is returned.

    For paths that are a process of their own (diffusion, bridges). Elsewhere a transition draws afresh what the data leave open, which
    suits a generator's sharp samples but not a mean: with it, a teacher's samples would lose variance however many the steps.

    Args:
        steps: evenly spaced in t, >= 1; one evaluation each.
        clip: whether predicted data are clipped to the limits of the data, so that a network's mistakes do not grow from step to step.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
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
        predict = ClippedField(view(counted, model, Data()), of.limits if self.clip else None)
        grid = times_down(model.times, self.steps, source)
        size = source.shape[:1]
        state = model.start(source, grid[0].expand(size), of.moments, generator=generator)
        for now, then in pairwise(grid[:-1]):
            data = predict(state, now.expand(size), condition)
            known = model.coupling.partner(data, source)
            state = model.interpolant.transition(state, data, now.expand(size), then.expand(size), source=known, generator=generator)
        return Samples(predict(state, grid[-2].expand(size), condition), counted.nfe)
