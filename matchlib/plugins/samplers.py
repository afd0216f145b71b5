"""Samplers: from a source at t = 1 down to data, by what a field predicts along the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.algebra.convert import conversion
from matchlib.algebra.interpolant import draw_like
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.pinned import PinnedInterpolant, PriorInterpolant
from matchlib.algebra.rows import expand
from matchlib.errors import IncompatibleError, SettingError, nearest
from matchlib.fields.sampler import SampledField, Sampler, Sampling
from matchlib.plugins.objectives import Data, Noise, Score, Source, Velocity
from matchlib.registry import samplers

__all__ = ["DDIM", "ODE", "SDE", "Ancestral", "Heun"]


@samplers.register("ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """state_s = a(s) data + b(s) source + c(s) noise, with the latents that the field predicts from the state at t.

    A step of the probability-flow ODE in which no coefficient is differentiated: where c' or b' is infinite, as at the ends of a bridge, it
    stays finite. It needs a field that determines every latent.

    Args:
        steps: evenly spaced in t, >= 1; one evaluation each.
        clip_denoised: whether predicted data are clipped to the limits of the data, so that a network's mistakes do not grow.

    References:
        Song, Meng, Ermon, "Denoising Diffusion Implicit Models", 2020, https://arxiv.org/abs/2010.02502 (the case of one Gaussian source)
    """

    steps: int = 50
    clip_denoised: bool = False

    @property
    def order(self) -> float:
        return 1.0

    def reads(self, model: MatchingModel) -> tuple[Objective, ...]:
        return (Data(), Source(), *((Noise(),) if model.interpolant.noisy else ()))

    def step(self, sampling: Sampling, state: Tensor, t: Tensor, s: Tensor) -> Tensor:
        data, source, *noise = sampling.read(state, t)
        return sampling.model.interpolant.coefficients(s).state(data, source, *noise or (None,))


@samplers.register("heun")
@dataclass(frozen=True)
class Heun(Sampler):
    """state_s = state_t + (a(s) - a(t)) data + (b(s) - b(t)) source + (c(s) - c(t)) noise, with means of the predictions at t and s.

    Heun's method on the probability-flow ODE, along the coefficients in place of time. On a variance-exploding path it integrates over
    sigma, as EDM does, where solutions are nearly straight; over the path's own t, a root of sigma, they are not. On straight lines it is
    Heun's method in t. It needs a field that determines every latent.

    Args:
        steps: evenly spaced in t, >= 1; two evaluations each.

    References:
        Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
        https://arxiv.org/abs/2206.00364 (algorithm 1)
    """

    steps: int = 18

    @property
    def order(self) -> float:
        return 2.0

    def reads(self, model: MatchingModel) -> tuple[Objective, ...]:
        return DDIM().reads(model)

    def step(self, sampling: Sampling, state: Tensor, t: Tensor, s: Tensor) -> Tensor:
        path = sampling.model.interpolant
        here, there = path.coefficients(t), path.coefficients(s)

        def moved(latents: tuple[Tensor, ...]) -> Tensor:
            data, source, *noise = latents
            return state + there.state(data, source, *noise or (None,)) - here.state(data, source, *noise or (None,))

        first = sampling.read(state, t)
        second = sampling.read(moved(first), s)
        return moved(tuple(torch.lerp(x, y, 0.5) for x, y in zip(first, second, strict=True)))


@samplers.register("ancestral")
@dataclass(frozen=True)
class Ancestral(Sampler):
    """state_s ~ transition(state_t, data), with the data that the field predicts; the last prediction is the sample.

    For paths that are a process of their own (diffusion, bridges). Elsewhere a transition draws afresh what the data leave open, which
    suits a generator's sharp samples but not a mean: with it, a teacher's samples would lose variance however many the steps.

    Args:
        steps: evenly spaced in t, >= 1; one evaluation each.
        clip_denoised: whether predicted data are clipped to the limits of the data, so that a network's mistakes do not grow.

    References:
        Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
    """

    steps: int = 100
    clip_denoised: bool = False
    remainder: ClassVar[float] = 0.0

    @property
    def order(self) -> float:
        return 1.0

    def reads(self, model: MatchingModel) -> tuple[Objective, ...]:
        if not isinstance(model.interpolant, PriorInterpolant):
            raise IncompatibleError(
                f"ancestral steps need a path that is a process of its own, which {type(model.interpolant).__name__} is not; "
                "use the sampler ode or sde"
            )
        if not isinstance(model.interpolant, PinnedInterpolant) and not model.coupling.gaussian_source:
            raise IncompatibleError(
                f"ancestral steps of {type(model.interpolant).__name__} draw fresh noise, and the source of "
                f"{type(model.coupling).__name__} belongs to its data; use the sampler ode or sde"
            )
        return (Data(),)

    def grid(self, model: MatchingModel, like: Tensor) -> Tensor:
        return super().grid(model, like)[:-1]

    def denoises(self, model: MatchingModel) -> bool:
        return True

    def step(self, sampling: Sampling, state: Tensor, t: Tensor, s: Tensor) -> Tensor:
        (data,) = sampling.read(state, t)
        source = sampling.model.coupling.partner(data, sampling.source)
        return sampling.model.interpolant.transition(state, data, t, s, source=source, generator=sampling.generator)


@samplers.register("sde")
@dataclass(frozen=True)
class SDE(Sampler):
    """Along decreasing t: d state = (-velocity + g2/2 score) ds + g dW, with g2 = level min(sigma, 1).

    ``sigma`` is the standard deviation of the noise that the score sees, the inverse length of its row: sqrt(b^2 + c^2) for an unseen
    Gaussian source, else c; so the drift stays finite where it vanishes. Every level has the same marginals; level 0 is the ODE.

    Args:
        steps: evenly spaced in t, >= 1.
        level: size of the diffusion, >= 0.

    References:
        Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants", 2023, https://arxiv.org/abs/2303.08797 (section 2.4)
    """

    steps: int = 100
    level: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.level >= 0:
            raise SettingError(f"sde: level must be at least 0, got {self.level}")

    @property
    def order(self) -> float:
        return 1.0

    def reads(self, model: MatchingModel) -> tuple[Objective, ...]:
        return Velocity(), Score()

    def step(self, sampling: Sampling, state: Tensor, t: Tensor, s: Tensor) -> Tensor:
        velocity, score = sampling.read(state, t)
        row = Score().row(sampling.model, sampling.model.interpolant.coefficients(t))
        sigma = torch.as_tensor(row.dot(row)).rsqrt().clamp(max=1.0)
        g2, dt = expand(self.level * sigma.expand(t.shape), state), expand(t - s, state)
        drift = -velocity + 0.5 * g2 * score
        return state + dt * drift + (g2 * dt).sqrt() * draw_like(state, sampling.generator)


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
    """Integrates d state/dt = velocity with torchdiffeq.

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
        super().__post_init__()
        if self.method not in METHODS:
            raise SettingError(f"ode: method must be one of {', '.join(METHODS)}, got {self.method!r}{nearest(self.method, METHODS)}")
        if not (self.rtol > 0 and self.atol > 0):
            raise SettingError(f"ode: rtol and atol must be positive, got {self.rtol}, {self.atol}")

    @property
    def order(self) -> float | None:
        return FIXED.get(self.method)

    def reads(self, model: MatchingModel) -> tuple[Objective, ...]:
        return (Velocity(),)

    def check(self, model: MatchingModel) -> None:
        conversion(model, Velocity()).check_at(model.times.t_min, "teacher.times.t_min=0.001")
        super().check(model)

    def grid(self, model: MatchingModel, like: Tensor) -> Tensor:
        """Returns both ends of the interval, which one call of torchdiffeq joins."""
        return torch.tensor([model.times.t_max, model.times.t_min], dtype=like.dtype, device=like.device)

    def step(self, sampling: Sampling, state: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self._integrate(sampling, state, torch.stack([t[0], s[0]]))[-1]

    def trajectory(
        self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        sampling = self.begin(of, source, label, generator)
        times = self._evenly(None, source, self.grid(of.model, source))
        states = self._integrate(sampling, self.start(sampling, times[0], of.moments), times)
        yield from zip(times, states, strict=True)
        if self.denoises(of.model):
            yield times.new_zeros(()), sampling.denoise(states[-1], times[-1].expand(source.shape[:1]))

    def _integrate(self, sampling: Sampling, state: Tensor, times: Tensor) -> Tensor:
        """Returns the states at ``times``, in steps of ``_evenly`` between the first and the last.

        An adaptive method ends at the last time as well, and what it tries beyond is asked there: the field has an interval.
        """
        from torchdiffeq import odeint

        low, high = times[-1], times[0]

        def velocity(t: Tensor, state: Tensor) -> Tensor:
            return sampling.read(state, t.to(state.dtype).clamp(low, high).expand(state.shape[:1]))[0]

        if self.method in FIXED:
            options: dict[str, Any] | None = {"grid_constructor": self._evenly}
        else:
            options = None if self.method == "scipy_solver" else {"step_t": times[-1:]}
        return odeint(velocity, state, times, method=self.method, rtol=self.rtol, atol=self.atol, options=options)

    def _evenly(self, f: Callable[..., Any] | None, y0: Tensor, t: Tensor) -> Tensor:
        """Returns ``steps + 1`` times between the first and the last of ``t``, as torchdiffeq asks for them."""
        del f, y0
        return torch.lerp(t[0], t[-1], torch.linspace(0, 1, self.steps + 1, dtype=t.dtype, device=t.device))
