"""Laws of interpolants."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from matchlib.algebra.interpolant import Interpolant
from matchlib.registries import interpolants
from matchlib.testing.law import law
from matchlib.testing.strategies import generators

inner = st.floats(0.02, 0.98).map(lambda t: torch.tensor([t], dtype=torch.float64))


def _triple(path: Interpolant, t: torch.Tensor) -> torch.Tensor:
    return path.coefficients(t).state.stack(t)


@law("interpolants", tolerance=1e-6)
def derivatives_are_derivatives(name: str, data: st.DataObject) -> float:
    """(a', b', c') is the derivative of (a, b, c): compared with a central difference."""
    path, t, h = interpolants[name](), data.draw(inner), 1e-5
    slope = (_triple(path, t + h) - _triple(path, t - h)) / (2 * h)
    exact = path.coefficients(t).velocity.stack(t)
    return ((slope - exact).norm() / (1 + exact.norm())).item()


@law("interpolants", tolerance=1e-2, examples=1)
def the_path_begins_at_the_data(name: str, data: st.DataObject) -> float:
    """(a, b, c) -> (1, 0, 0) as t -> 0."""
    path = interpolants[name]()
    ends = [_triple(path, torch.tensor([t], dtype=torch.float64)) - torch.tensor([1.0, 0.0, 0.0]) for t in (1e-3, 1e-6)]
    far, near = (end.norm().item() for end in ends)
    return near if near <= far else 1.0


@law("interpolants", tolerance=1e-9, examples=30)
def noise_is_declared(name: str, data: st.DataObject) -> float:
    """c > 0 inside the interval if the interpolant says that it is noisy, and c = 0 if not."""
    path, t = interpolants[name](), data.draw(inner)
    c = _triple(path, t)[0, 2].item()
    return float(c <= 0) if path.noisy else abs(c)


@law("interpolants", tolerance=1e-12)
def times_do_not_mix(name: str, data: st.DataObject) -> float:
    """Coefficients at a time do not depend on the other times of the batch."""
    path = interpolants[name]()
    t = torch.cat([data.draw(inner) for _ in range(3)])
    alone = torch.cat([_triple(path, one[None]) for one in t])
    return (_triple(path, t) - alone).abs().max().item()


@law("interpolants", tolerance=5.0, examples=8)
def transitions_keep_the_law(name: str, data: st.DataObject) -> float:
    """Given the data, a transition carries the law of the state at t to that at s < t: mean and variance, in standard errors."""
    path, generator, n = interpolants[name](), data.draw(generators()), 4000
    t, s = sorted((data.draw(inner), data.draw(inner)), reverse=True)
    if (t - s).item() < 1e-3:
        return 0.0
    x = torch.full((n, 1), data.draw(st.floats(-2, 2)), dtype=torch.float64)
    latents = torch.randn(2, n, 1, dtype=torch.float64, generator=generator)
    at_t, at_s = (path.coefficients(time.expand(n)) for time in (t, s))
    state = at_t.state(x, latents[0], latents[1])
    moved = path.transition(state, x, t.expand(n), s.expand(n), source=None, generator=generator)
    wanted = at_s.state.stack(at_s.time)[0]
    mean, variance = wanted[0] * x[0, 0], wanted[1] ** 2 + wanted[2] ** 2
    off_mean = (moved.mean() - mean).abs() / (variance / n).sqrt()
    off_variance = (moved.var() - variance).abs() / (variance * (2 / n) ** 0.5)
    return max(off_mean.item(), off_variance.item())
