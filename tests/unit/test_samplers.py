"""Samplers: numbers of evaluations, orders, trajectories, clipping."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import nn

import matchlib
from matchlib.algebra.records import Condition
from matchlib.algebra.rows import expand
from matchlib.errors import IncompatibleError, SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.sampler import SampledField, Sampler, Sampling
from matchlib.plugins.samplers import ADAPTIVE, FIXED, ODE

FLOW = matchlib.families["flow"]().model(paired=False)


def exact_flow(law: Mixture, sampler: ODE, source: torch.Tensor) -> tuple[torch.Tensor, int]:
    result = sampler.sample(SampledField(GaussianField(FLOW, law), FLOW), source, None, generator=torch.Generator())
    return result.data, result.nfe


STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


@pytest.mark.parametrize("method", sorted(STAGES))
def test_ode_evaluates_each_stage_of_each_step(method: str) -> None:
    _, nfe = exact_flow(Mixture.normal(), ODE(method, steps=7), torch.zeros(1, 1, dtype=torch.float64))
    assert nfe == 7 * STAGES[method]


@pytest.mark.parametrize(("method", "order"), [(m, order) for m, order in FIXED.items() if order])
def test_ode_has_the_order_that_it_declares(method: str, order: float) -> None:
    """The exact flow of a Gaussian carries source z to mean + std z: the slope of log error against log step is the order or more."""
    law, source = Mixture.normal(1.0, 0.3), torch.tensor([[-1.3], [0.2], [2.1]], dtype=torch.float64)
    errors = [(exact_flow(law, ODE(method, steps=n), source)[0] - (1 + 0.3 * source)).abs().max().item() for n in (32, 128)]
    assert np.log(errors[0] / errors[1]) / np.log(4) > order - 0.35


@pytest.mark.parametrize("method", [*FIXED, *ADAPTIVE])
def test_ode_integrates_with_every_method_of_torchdiffeq(method: str) -> None:
    source = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    data, nfe = exact_flow(Mixture.normal(1.0, 0.5), ODE(method, steps=40, rtol=1e-6, atol=1e-6), source)
    assert torch.allclose(data, 1 + 0.5 * source, atol=0.05)
    assert nfe > 1


def test_heun_is_the_deterministic_sampler_of_edm_on_its_path() -> None:
    """Algorithm 1 of EDM, written in sigma for unit data, whose best denoiser is x / (1 + sigma^2)."""
    model = matchlib.families["diffusion"]().model(paired=False)
    noise = torch.tensor([[-1.3], [0.2], [1.0]], dtype=torch.float64)
    times = torch.linspace(1.0, model.times.t_min, 19, dtype=torch.float64)
    sigmas = 80.0 * times**7

    def slope(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (x - x / (1 + sigma**2)) / sigma

    x = sigmas[0] * noise
    for now, then in pairwise(sigmas):
        euler = x + (then - now) * slope(x, now)
        x = x + (then - now) * (slope(x, now) + slope(euler, then)) / 2
    expected = x / (1 + sigmas[-1] ** 2)
    made = matchlib.samplers["heun"](steps=18).sample(
        SampledField(GaussianField(model, Mixture.normal()), model), noise, None, generator=torch.Generator()
    )
    assert torch.allclose(made.data, expected, rtol=1e-6) and made.nfe == 37
    assert (made.data / noise - 1).abs().max() < 0.04  # over t in place of sigma it would be .11


def test_heun_is_that_of_torchdiffeq_on_straight_lines() -> None:
    law, source = Mixture.normal(1.0, 0.3), torch.tensor([[-1.3], [0.2], [2.1]], dtype=torch.float64)
    of = SampledField(GaussianField(FLOW, law), FLOW)
    heun = matchlib.samplers["heun"](steps=9).sample(of, source, None, generator=torch.Generator())
    data, nfe = exact_flow(law, ODE("heun2", steps=9), source)
    assert torch.allclose(heun.data, data, rtol=1e-12) and heun.nfe == nfe


class Asked(nn.Module):
    """Keeps the least and the largest time at which a field is asked."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.times = field, [1.0, 0.0]

    def forward(self, state: torch.Tensor, time: torch.Tensor, condition: Condition) -> torch.Tensor:
        self.times = [min(self.times[0], float(time.min())), max(self.times[1], float(time.max()))]
        return self.field(state, time, condition)


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("family", ["flow", "diffusion", "diffusion-vp", "interpolant"])
def test_ode_asks_the_field_within_its_interval_whatever_the_method(family: str, method: str) -> None:
    """Adaptive methods try times beyond the end, where the schedule of diffusion-vp is a root of a negative number: samples were NaN."""
    model = matchlib.families[family]().model(paired=False)
    field = Asked(GaussianField(model, Mixture.normal(0.3, 0.6)))
    source = torch.tensor([[-1.0], [0.1], [1.0]], dtype=torch.float64)
    sampler = ODE(method, rtol=1e-4, atol=1e-4)
    data = sampler.sample(SampledField(field, model), source, None, generator=torch.Generator().manual_seed(0)).data
    assert torch.isfinite(data).all()
    assert torch.allclose(data, 0.3 + 0.6 * source, atol=0.08)
    assert model.times.t_min - 1e-12 <= field.times[0] and field.times[1] <= model.times.t_max


class TooLarge(nn.Module):
    """Exact, but for data that it predicts a thousand times too large."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, state: torch.Tensor, time: torch.Tensor, condition: Condition) -> torch.Tensor:
        return 1000 * self.field(state, time, condition)


@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_sampler_with_clip_denoised_keeps_samples_within_the_limits_of_the_data(name: str) -> None:
    """A clipped sampler ends inside the limits whatever the field says, one without is carried away, and wide limits change nothing."""
    model = matchlib.families["diffusion"]().model(paired=False)
    exact = GaussianField(model, Mixture.normal(0.0, 1.0))
    source = torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def drawn(field: nn.Module, clip: bool, limits: tuple[float, float]) -> torch.Tensor:
        sampler = matchlib.samplers.build({"name": name, "steps": 8, "clip_denoised": clip})
        return sampler.sample(SampledField(field, model, limits=limits), source, None, generator=torch.Generator().manual_seed(1)).data

    assert drawn(TooLarge(exact), True, (-2.0, 2.0)).abs().max() <= 2
    assert drawn(TooLarge(exact), False, (-2.0, 2.0)).abs().max() > 100
    assert torch.equal(drawn(exact, True, (-1e3, 1e3)), drawn(exact, False, (-2.0, 2.0)))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        *product(["flow"], ["ode", "sde", "ddim", "explicit_adams", "dopri5"]),
        *product(["diffusion-vp"], ["ode", "sde", "ddim", "explicit_adams", "ancestral"]),
    ],
)
def test_trajectory_runs_from_the_start_to_the_sample(family: str, name: str) -> None:
    """Times fall from ``t_max``; the last state, at time 0 where the model stops short of it, is what ``sample`` returns, bit for bit."""
    spec = {"name": name} if name in matchlib.samplers else {"name": "ode", "method": name}
    sampler, model = matchlib.samplers.build(spec | {"steps": 6}), matchlib.families[family]().model(paired=False)
    source = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    of = SampledField(GaussianField(model, Mixture.normal(0.3, 0.6, dimension=2)), model)
    times, states = zip(*sampler.trajectory(of, source, None, generator=torch.Generator().manual_seed(1)), strict=True)
    assert len(times) == 7 + (model.times.t_min > 0) - (name == "ancestral")
    assert times[0] == model.times.t_max and times[-1] == 0
    assert all(now > then for now, then in pairwise(times))
    samples = sampler.sample(of, source, None, generator=torch.Generator().manual_seed(1))
    assert torch.equal(states[-1], samples.data)


class Stretch(Sampler):
    """A sampler as a stranger writes it: Euler steps of the velocity."""

    steps = 50

    def reads(self, model: matchlib.MatchingModel) -> tuple[matchlib.Objective, ...]:
        return (matchlib.objectives.velocity(),)

    def step(self, sampling: Sampling, state: torch.Tensor, t: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        (velocity,) = sampling.read(state, t)
        return state + expand(s - t, state) * velocity


def test_sampler_needs_reads_and_step_alone() -> None:
    source = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    data, nfe = exact_flow(Mixture.normal(1.0, 0.5), Stretch(), source)
    assert torch.allclose(data, 1 + 0.5 * source, atol=0.05)
    assert nfe == 50


def test_sampler_refuses_steps_below_one() -> None:
    with pytest.raises(SettingError, match="steps must be at least 1, got 0"):
        ODE(steps=0)


@pytest.mark.parametrize("path", ["vp-linear", "ve"])
def test_ancestral_steps_are_refused_where_the_source_belongs_to_the_data(path: str) -> None:
    """They draw fresh noise, and would give such a model's samples more than twice the spread of the data."""
    flow = matchlib.families["flow"]().model(paired=False)
    for coupling, fits in (("independent", True), ("minibatch-ot", False), ("paired", False)):
        model = replace(flow, coupling=matchlib.couplings[coupling](), interpolant=matchlib.interpolants[path]())
        with nullcontext() if fits else pytest.raises(IncompatibleError, match="ode or sde"):
            matchlib.samplers["ancestral"]().check(model)


@pytest.mark.parametrize(
    "family", [name for name in matchlib.families if matchlib.families[name]().model(paired=True).coupling.reads_source]
)
def test_default_samples_of_pairs_have_mean_and_spread_of_the_data(family: str) -> None:
    """Entries of other means than zero, which a start from the source alone does not know; y = .5 x / .51 + N(.7, .51 (1 - .25))."""
    model, sampler = matchlib.families[family]().model(paired=True), matchlib.families[family]().defaults(paired=True).sampler
    mixture = Mixture.normal(0.0, 0.714, correlation=0.5, dimension=2)
    mean = mixture.mean.clone()
    mean[0, 0, 0] = torch.tensor([0.7, -0.7])  # of the data
    mixture = Mixture(mixture.weights, mean, mixture.covariance)
    generator = torch.Generator().manual_seed(0)
    batch = mixture.sample(4000, generator)
    field = SampledField(GaussianField(model, mixture), model, mixture.moments())
    found = sampler.sample(field, batch.source, None, generator=generator).data
    assert found.mean(0).tolist() == pytest.approx([0.7, -0.7], abs=0.06)  # five standard errors
    assert found.std(0).tolist() == pytest.approx([0.714, 0.714], abs=0.05)


def test_a_start_that_leaves_much_out_is_named() -> None:
    """c = scale sin^2(pi t) vanishes faster than a = 1 - t; sqrt(t (1 - t)) does not."""
    model = matchlib.families["interpolant"]().model(paired=True)
    assert model.data_at_start < 0.2
    assert replace(model, interpolant=matchlib.interpolants["noisy-linear"]()).data_at_start > 1
