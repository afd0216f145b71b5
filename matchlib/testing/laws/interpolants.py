"""Laws of interpolants."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import strategies as st

from matchlib.algebra.interpolant import Interpolant
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.pinned import PinnedInterpolant
from matchlib.algebra.records import Batch, Condition
from matchlib.fields.exact import GaussianField, seen_by
from matchlib.plugins.couplings import Independent
from matchlib.plugins.objectives import Data
from matchlib.registry import fields_of, interpolants, objectives
from matchlib.testing.law import law
from matchlib.testing.strategies import INSIDE, exactly_known, generators, mixtures, models, plugins_of, shapes, variants
from matchlib.testing.world import affine_divergence

inner = st.floats(0.02, 0.98).map(lambda t: torch.tensor([t], dtype=torch.float64))


def _triple(path: Interpolant, t: torch.Tensor) -> torch.Tensor:
    return path.coefficients(t).state.stack(t)


@law("interpolants", tolerance=1e-6)
def derivatives_are_derivatives(name: str, data: st.DataObject) -> float:
    """(a', b', c') is the derivative of (a, b, c): compared with a central difference.

    Advice: `coefficients(t).derivatives` is not the slope of (a, b, c): correct it, or state only `schedule` and let it be differentiated.
    """
    path, t, h = data.draw(plugins_of(interpolants, name)), data.draw(inner), 1e-5
    slope = (_triple(path, t + h) - _triple(path, t - h)) / (2 * h)
    exact = path.coefficients(t).velocity.stack(t)
    return ((slope - exact).norm() / (1 + exact.norm())).item()


@law("interpolants", tolerance=0.0, examples=1, where=lambda name: bool(fields_of(interpolants[name])))
def every_setting_is_used(name: str, data: st.DataObject) -> float:
    """Each setting changes the path, at one of the values that laws try; each of the plugin's own ``examples`` changes it.

    Advice: Use the setting in `schedule`, remove it, or name values that matter in a class attribute `examples`.
    """
    t, plugin = torch.linspace(0.1, 0.9, 9, dtype=torch.float64), interpolants[name]
    default = _triple(plugin(), t)
    changes = [(settings, not torch.equal(_triple(plugin(**settings), t), default)) for settings in variants(plugin)[1:]]
    for key in fields_of(plugin):
        tried = {settings[key]: changed for settings, changed in changes if key in settings}
        assert tried, f"no other value of the setting {key!r} is known"
        assert any(tried.values()), f"the setting {key!r} changes nothing: the path is the same at {', '.join(map(str, tried))}"
    idle = [example for example in getattr(plugin, "examples", ()) if (example, False) in changes]
    assert not idle, f"the example {idle[0]} changes nothing"
    return 0.0


@law("interpolants", tolerance=1e-2, examples=4)
def the_path_begins_at_the_data(name: str, data: st.DataObject) -> float:
    """(a, b, c) -> (1, 0, 0) as t -> 0.

    Advice: At t = 0 the state must be the data: a(0) = 1, b(0) = 0, c(0) = 0. If the path runs the other way, replace t by 1 - t.
    """
    path = data.draw(plugins_of(interpolants, name))
    ends = [_triple(path, torch.tensor([t], dtype=torch.float64)) - torch.tensor([1.0, 0.0, 0.0]) for t in (1e-3, 1e-6)]
    far, near = (end.norm().item() for end in ends)
    return near if near <= far else 1.0


@law("interpolants", tolerance=0.5, examples=4)
def the_path_ends_at_the_source(name: str, data: st.DataObject) -> float:
    """At t = 1 little is left of the data: a is at most half of sqrt(b^2 + c^2), so that a source says nearly all of the state.

    Advice: At t = 1 the source must dominate: let a fall towards 0 as t goes to 1, or let b or c grow.
    """
    a, b, c = _triple(data.draw(plugins_of(interpolants, name)), torch.tensor([1.0], dtype=torch.float64))[0].tolist()
    return abs(a) / max((b * b + c * c) ** 0.5, 1e-12)


@law("interpolants", tolerance=5.0, examples=8)
def states_hold_their_noise(name: str, data: st.DataObject) -> float:
    """c >= 0, and states drawn along the path have the variance b^2 + c^2 given the data, within 5 standard errors.

    Advice: State c >= 0 in `schedule` and leave `noisy` alone: it is derived from the schedule.
    """
    path, t, n = data.draw(plugins_of(interpolants, name)), data.draw(inner), 4000
    model, zeros = MatchingModel(Independent(), path, Data(), INSIDE), torch.zeros(n, 1, dtype=torch.float64)
    generator = data.draw(generators())
    pair = model.coupling.pair(Batch(zeros), generator=generator)
    point = model.interpolate(pair, t.expand(n), generator=generator)
    _, b, c = _triple(path, t)[0].tolist()
    assert c >= 0, f"c = {c:.3g} at t = {t.item():.3g} is negative"
    variance = b * b + c * c
    return (point.state.var() - variance).abs().item() / (variance * (2 / n) ** 0.5)


@law("interpolants", tolerance=1e-12)
def times_do_not_mix(name: str, data: st.DataObject) -> float:
    """Coefficients at a time do not depend on the other times of the batch.

    Advice: Compute each coefficient from its own time: no mean, sum, sort or shape of `t` may enter `schedule`.
    """
    path = data.draw(plugins_of(interpolants, name))
    t = torch.cat([data.draw(inner) for _ in range(3)])
    alone = torch.cat([_triple(path, one[None]) for one in t])
    return (_triple(path, t) - alone).abs().max().item()


@law("interpolants", tolerance=5.0, examples=8)
def transitions_keep_the_law(name: str, data: st.DataObject) -> float:
    """Given the data, and the source if it is known, a transition carries the law of the state at t to that at s < t.

    Compared are mean and variance, in standard errors.

    Advice: `transition` draws states at s with another mean or variance than a(s), b(s), c(s) say: correct it, or drop it for the default.
    """
    path, generator, n = data.draw(plugins_of(interpolants, name)), data.draw(generators()), 4000
    t, s = sorted((data.draw(inner), data.draw(inner)), reverse=True)
    if (t - s).item() < 1e-3:
        return 0.0
    x, known = (torch.full((n, 1), data.draw(st.floats(-2, 2)), dtype=torch.float64) for _ in range(2))
    latents = torch.randn(2, n, 1, dtype=torch.float64, generator=generator)
    at_t, at_s = (path.coefficients(time.expand(n)) for time in (t, s))
    a, b, c = at_s.state.stack(at_s.time)[0].tolist()

    def off(source: torch.Tensor | None, mean: float, variance: float) -> float:
        state = at_t.state(x, latents[0] if source is None else source, latents[1])
        moved = path.transition(state, x, t.expand(n), s.expand(n), source=source, generator=generator)
        size = max(variance, 1e-9)  # nothing may be left to draw
        off_mean = (moved.mean() - mean).abs() / (size / n) ** 0.5
        return max(float(off_mean), float((moved.var() - variance).abs() / (size * (2 / n) ** 0.5)))

    center = a * float(x[0])
    return max(off(None, center, b * b + c * c), off(known, center + b * float(known[0]), c * c))


@law("interpolants", tolerance=1e-10)
def states_are_linear(name: str, data: st.DataObject) -> float:
    """The state is a data + b source + c noise, for events of any shape: linear, with coefficients that do not depend on the latents.

    Advice: The coefficients may depend on t only: the state must be a data + b source + c noise, nothing else.
    """
    path, generator, shape = data.draw(plugins_of(interpolants, name)), data.draw(generators()), data.draw(shapes)
    t = torch.cat([data.draw(inner) for _ in range(2)])
    x, y = torch.randn(2, 3, 2, *shape, dtype=torch.float64, generator=generator)
    row, k = path.coefficients(t).state, data.draw(st.floats(-2, 2))
    whole = row(*(x + k * y))
    by_hand = torch.einsum("bi,ib...->b...", row.stack(t), x)
    return max((whole - row(*x) - k * row(*y)).abs().max().item(), (row(*x) - by_hand).abs().max().item())


@law("interpolants", tolerance=1e-4, examples=10)
def velocities_carry_the_law(name: str, data: st.DataObject) -> float:
    """The exact velocity v obeys the continuity equation, d density/dt + d (density v)/d state = 0 (Albergo et al. 2023, theorem 6).

    Advice: The velocity (a', b', c') does not fit the path (a, b, c): correct the derivatives, or state only `schedule`.
    """
    model = data.draw(models(interpolant=name, objective="velocity").filter(exactly_known))
    model, t, h = replace(model, sees_source=False), data.draw(inner), 1e-5
    given = data.draw(mixtures(model.coupling))
    x = torch.linspace(-4, 4, 41, dtype=torch.float64)[:, None].requires_grad_(True)

    def density(time: torch.Tensor) -> torch.Tensor:
        return given.log_density(*seen_by(model, x, time, None)).exp()

    flux = density(t) * GaussianField(model, given)(x, t.expand(len(x)), Condition())[:, 0]
    (divergence,) = torch.autograd.grad(flux.sum(), x)
    rate = (density(t + h) - density(t - h)) / (2 * h)
    return ((rate + divergence[:, 0]).abs().max() / (1 + divergence.abs().max())).item()


@law("interpolants", tolerance=1e-6, examples=4, where=lambda name: isinstance(interpolants[name](), PinnedInterpolant))
def bridges_are_pinned_at_both_ends(name: str, data: st.DataObject) -> float:
    """(a, b, c) -> (1, 0, 0) as t -> 0 and (0, 1, 0) as t -> 1, c^2 as the distance to the end.

    Advice: `prior` must have alpha = 1 and variance 0 at t = 0, and a variance that is finite and positive at t = 1.
    """
    path = data.draw(plugins_of(interpolants, name))
    ends = ((1e-14, [1.0, 0.0, 0.0]), (1 - 1e-14, [0.0, 1.0, 0.0]))
    return max((_triple(path, torch.tensor([t], dtype=torch.float64)) - torch.tensor(end)).abs().max().item() for t, end in ends)


@law("interpolants", tolerance=1e-6, examples=10, where=lambda name: interpolants[name]().noisy)
def scores_are_blind_to_the_coupling(name: str, data: st.DataObject) -> float:
    """An antisymmetric change of the cross-covariance of data and source leaves the score as it was and changes the velocity.

    Advice: The coefficient c of the noise, or the row of the score made from it, is wrong: check c in `schedule`.
    """
    velocity = data.draw(models(interpolant=name, objective="velocity", coupling="paired").filter(lambda m: not m.sees_source))
    t = data.draw(st.floats(0.2, 0.8))
    given = data.draw(mixtures(velocity.coupling, dimension=2, components=1))
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64) * 0.05
    changed = given.covariance.clone()
    changed[:, :, 0, :, 1] += turn
    changed[:, :, 1, :, 0] += turn.T
    other = replace(given, covariance=changed)
    score = replace(velocity, objective=objectives["score"]())
    blind, seeing = (affine_divergence(model, given, other, t).item() for model in (score, velocity))
    return abs(blind) if seeing > 1e-7 else 1.0
