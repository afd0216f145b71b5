"""The probability-flow ODE, integrated by torchdiffeq.

References:
    Chen, Rubanova, Bettencourt, Duvenaud, "Neural Ordinary Differential Equations", 2018, https://arxiv.org/abs/1806.07366
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from matchlib.algebra.convert import conversion, view
from matchlib.algebra.model import MatchingModel
from matchlib.errors import SettingError, nearest
from matchlib.plugins.objectives.data import Data
from matchlib.plugins.objectives.velocity import Velocity
from matchlib.registries import samplers
from matchlib.sampling.base import CountedField, SampledField, Sampler, Samples
from matchlib.sampling.grid import check_steps

__all__ = ["ODE"]

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
    """Integrates d state/dt = velocity from ``times.high`` to ``times.low``; a model with ``times.low > 0`` ends with one denoising.

    Args:
        method: any of torchdiffeq's: euler, midpoint, heun2, heun3, rk4, explicit_adams, implicit_adams, fixed_adams (fixed steps);
            dopri5, dopri8, bosh3, fehlberg2, adaptive_heun, scipy_solver (adaptive).
        steps: of a fixed-step method, evenly spaced in t, >= 1; adaptive methods choose their own.
        rtol, atol: tolerances of an adaptive method, > 0.
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
        velocity.check_at(model.times.low)
        velocity.check_at(model.times.high)
        if model.times.low > 0:
            conversion(model, Data())

    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        model, counted = of.model, CountedField(of.field)
        condition = model.condition(source, label)
        velocity: nn.Module = view(counted, model, Velocity())
        size = source.shape[:1]

        def derivative(t: Tensor, state: Tensor) -> Tensor:
            return velocity(state, t.to(state.dtype).expand(size), condition)

        ends = torch.tensor([model.times.high, model.times.low], dtype=source.dtype, device=source.device)
        start = model.start(source, ends[0].expand(size), of.moments, generator=generator, remainder=1.0)
        options = {"grid_constructor": self._grid} if self.method in FIXED else None
        state = odeint(derivative, start, ends, method=self.method, rtol=self.rtol, atol=self.atol, options=options)[-1]
        if model.times.low > 0:
            state = view(counted, model, Data())(state, ends[1].expand(size), condition)
        return Samples(state, counted.nfe)

    def _grid(self, f: Callable[..., Any], y0: Tensor, t: Tensor) -> Tensor:
        """The ``steps + 1`` points of a fixed grid between the two ends that torchdiffeq was given."""
        del f, y0
        return torch.lerp(t[0], t[-1], torch.linspace(0, 1, self.steps + 1, dtype=t.dtype, device=t.device))
