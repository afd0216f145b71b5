"""Laws of samplers, in the Gaussian world."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import assume
from hypothesis import strategies as st

from matchlib.algebra.model import Moments
from matchlib.algebra.times import Times
from matchlib.errors import IncompatibleError
from matchlib.registries import families, samplers
from matchlib.sampling.base import SampledField
from matchlib.testing.gaussian import GaussianField, GaussianLaw
from matchlib.testing.law import law
from matchlib.testing.strategies import generators

SIZE = 4000


@law("samplers", tolerance=0.08, examples=6)
def exact_fields_carry_source_to_data(name: str, data: st.DataObject) -> float:
    """From an exact field, 4,000 samples have the mean and standard deviation of the data (four times the default steps), every family."""
    plugin = families[data.draw(st.sampled_from(list(families)))]()
    model = plugin.model(paired=False)
    if model.interpolant.noisy:  # a stochastic path's velocity is singular at its ends
        model = replace(model, times=Times(max(model.times.low, 0.01), min(model.times.high, 0.99)))
    given = GaussianLaw(data.draw(st.floats(-0.5, 0.5)), data.draw(st.floats(0.6, 1.2)))
    generator = data.draw(generators())
    of = SampledField(GaussianField(model, given), model, Moments(given.std**2))
    source = torch.randn(SIZE, 1, dtype=torch.float64, generator=generator)
    sampler = samplers[name]()
    sampler = replace(sampler, steps=4 * sampler.steps) if hasattr(sampler, "steps") else sampler  # type: ignore[type-var]
    try:
        samples = sampler.sample(of, source, None, generator=generator).data
    except IncompatibleError:  # refused, as it should be where the sampler would be wrong
        assume(False)
    return max((samples.mean() - given.mean).abs().item(), (samples.std() / given.std - 1).abs().item())


@law("samplers", tolerance=0.0, examples=4)
def evaluations_are_counted(name: str, data: st.DataObject) -> float:
    """``nfe`` is the number of times the field was asked, and n steps ask at least n times."""
    model = families["bridge"]().model(paired=False)
    model = replace(model, times=Times(0.01, 0.99))
    sampler = samplers[name]()
    asked = 0

    class Counting(GaussianField):
        def forward(self, *seen: object) -> torch.Tensor:
            nonlocal asked
            asked += 1
            return super().forward(*seen)  # type: ignore[arg-type]

    of = SampledField(Counting(model, GaussianLaw()), model)
    result = sampler.sample(of, torch.zeros(2, 1, dtype=torch.float64), None, generator=data.draw(generators()))
    return float(result.nfe != asked or result.nfe < getattr(sampler, "steps", 1))
