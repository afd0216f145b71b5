"""Laws of samplers, in the Gaussian world."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import IncompatibleError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.sampler import SampledField, Sampler
from matchlib.plugins.couplings import Paired
from matchlib.plugins.interpolants import NoisyLinear
from matchlib.plugins.objectives import Joint
from matchlib.registry import families, samplers
from matchlib.testing.law import law
from matchlib.testing.strategies import generators, moderate_times_of


@law("samplers", tolerance=0.0, examples=4)
def evaluations_are_counted(name: str, data: st.DataObject) -> float:
    """``nfe`` is the number of times the field was asked, and n steps ask at least n times.

    Advice: Evaluate the field by `Sampling.read` or `denoise` only, at least once a step; whatever bypasses them is not counted.
    """
    model = families["bridge"]().model(paired=False)
    model = replace(model, times=TimeDistribution(0.01, 0.99))
    sampler = samplers[name]()
    asked = 0

    class Counting(GaussianField):
        def forward(self, *seen: object) -> torch.Tensor:
            nonlocal asked
            asked += 1
            return super().forward(*seen)  # type: ignore[arg-type]

    of = SampledField(Counting(model, Mixture.normal()), model)
    result = sampler.sample(of, torch.zeros(2, 1, dtype=torch.float64), None, generator=data.draw(generators()))
    return float(result.nfe != asked or result.nfe < getattr(sampler, "steps", 1))


class _UnitNoise(TorchFunctionMode):
    """In place of the i-th normal draw, a one in row i and zeros elsewhere: what an affine map does to it is the gain of that draw."""

    def __init__(self) -> None:
        super().__init__()
        self.draws = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.randn:
            return function(*args, **(kwargs or {}))
        self.draws += 1
        zeros = torch.zeros(*args, **{key: value for key, value in (kwargs or {}).items() if key != "generator"})
        zeros[self.draws] = 1.0
        return zeros


def _exact_moments(sampler: Sampler, of: SampledField, rows: int) -> torch.Tensor:
    """Mean and variance of the samples of an affine field from a standard normal source, without sampling error."""
    source = torch.zeros(rows, 1, dtype=torch.float64)
    source[-1] = 1.0
    with _UnitNoise(), torch.no_grad():
        x = sampler.sample(of, source, None, generator=torch.Generator()).data[:, 0]
    return torch.stack([x[0], (x[1:] - x[0]).square().sum()])


@law("samplers", tolerance=0.08, examples=4)
def exact_fields_carry_source_to_data(name: str, data: st.DataObject) -> float:
    """From an exact field the samples have the mean and standard deviation of the data (four times the default steps), every family.

    Advice: With an exact field the samples have other moments than the data: check the sign of time, the drift and the noise of `step`.
    """
    plugin = families[data.draw(st.sampled_from(list(families)))]()
    model = plugin.model(paired=False)
    if model.interpolant.noisy:  # a stochastic path's velocity is singular at its ends
        model = replace(model, times=TimeDistribution(max(model.times.t_min, 0.01), min(model.times.t_max, 0.99)))
    sampler = samplers[name]()
    try:
        sampler.check(model)
    except IncompatibleError:  # refused, as it should be where the sampler would be wrong
        assume(False)
    mean, std = data.draw(st.floats(-0.5, 0.5)), data.draw(st.floats(0.6, 1.2))
    given = Mixture.normal(mean, std)
    of = SampledField(GaussianField(model, given), model, given.moments())
    sampler = replace(sampler, steps=4 * sampler.steps)  # type: ignore[type-var]
    found = _exact_moments(sampler, of, 2 * sampler.steps + 4)
    return max((found[0] - mean).abs().item(), (found[1].sqrt() / std - 1).abs().item())


def _two_sided(scale: float) -> MatchingModel:
    return MatchingModel(Paired(), NoisyLinear(scale), Joint(), TimeDistribution(0.01, 0.99))


def _takes_two_heads(name: str) -> bool:
    try:
        samplers[name]().check(_two_sided(0.5))
    except IncompatibleError:
        return False
    return True


@law("samplers", tolerance=0.08, examples=3, where=_takes_two_heads)
def two_heads_carry_any_source_to_data(name: str, data: st.DataObject) -> float:
    """On a two-sided path the split into path velocity and noise carries the sources' moments to those of the data.

    Advice: With two heads the samples have other moments than the data: read velocity and score by `reads`, not a head by position.
    """
    model, sampler = _two_sided(data.draw(st.floats(0.3, 1.0))), samplers[name]()
    mean, std = data.draw(st.floats(-0.5, 0.5)), data.draw(st.floats(0.6, 1.2))
    given = Mixture.normal(mean, std, correlation=data.draw(st.floats(-0.8, 0.8)))
    of = SampledField(GaussianField(model, given), model, given.moments())
    sampler = replace(sampler, steps=4 * sampler.steps)  # type: ignore[type-var]
    found = _exact_moments(sampler, of, 2 * sampler.steps + 4)
    return max((found[0] - mean).abs().item(), (found[1].sqrt() / std - 1).abs().item())


def _accepted(name: str) -> MatchingModel:
    """A family's model that the sampler takes, where signal and noise are of one order."""
    for family in ("diffusion-vp", *families):
        model = families[family]().model(paired=False)
        times = sorted(moderate_times_of(model))
        model = replace(model, times=TimeDistribution(times[0], times[-1]))
        try:
            samplers[name]().check(model)
        except IncompatibleError:
            continue
        return model
    raise IncompatibleError(f"no family's model is sampled by {name}")


@law("samplers", tolerance=0.25, examples=2, where=lambda name: samplers[name]().order is not None)
def measured_order_is_the_declared_order(name: str, data: st.DataObject) -> float:
    """Halving the step divides what the step changes in the samples' mean and variance by 2 to the declared order (32, 64, 128 steps).

    Advice: `order` is not the order that is measured: state the measured one, or correct `step`.
    """
    model = _accepted(name)
    given = Mixture.normal(data.draw(st.floats(0.5, 1)), data.draw(st.floats(0.4, 0.8)))
    of = SampledField(GaussianField(model, given), model, given.moments())
    runs = [replace(samplers[name](), steps=n) for n in (32, 64, 128)]  # type: ignore[type-var]
    coarse, middle, fine = (_exact_moments(run, of, 2 * run.steps + 4) for run in runs)
    order = ((coarse - middle).norm() / (middle - fine).norm()).log2().item()
    declared = samplers[name]().order
    assert declared is not None
    return abs(order - declared)
