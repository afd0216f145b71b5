"""Exact fields of Gaussian mixtures, against closed forms of others."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

import matchlib
from matchlib.algebra.records import Condition
from matchlib.fields.exact import BestCritic, GaussianField, Mixture, seen_by

FLOW = matchlib.families["flow"]().model(paired=False)
STATE = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
TIME = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)


def test_gaussian_field_of_a_flow_is_its_regression() -> None:
    """Velocity source - data, given the state (1 - t) data + t source with data N(.7, .5^2)."""
    t = TIME[:, None]
    variance = 0.25 * (1 - t) ** 2 + t**2
    expected = -0.7 + (t - 0.25 * (1 - t)) / variance * (STATE - 0.7 * (1 - t))
    field = GaussianField(FLOW, Mixture.normal(0.7, 0.5))
    assert torch.allclose(field(STATE, TIME, Condition()), expected)
    assert torch.equal(field.distribution.mean, Mixture.normal(0.7, 0.5).mean)


def test_mixture_log_density_is_that_of_a_normal() -> None:
    rows, values = seen_by(FLOW, STATE, TIME, None)
    density = Mixture.normal(0.7, 0.5).log_density(rows, values)
    std = (0.25 * (1 - TIME) ** 2 + TIME**2).sqrt()
    assert torch.allclose(density, Normal(0.7 * (1 - TIME), std).log_prob(STATE[:, 0]))


def test_mixture_samples_have_its_moments() -> None:
    mixture = Mixture.normal(-1.0, 0.3).blend(Mixture.normal(2.0, 0.5, correlation=0.8), 0.25)
    batch, moments = mixture.sample(40_000, torch.Generator().manual_seed(0)), mixture.moments()
    assert batch.label is None and batch.source is not None
    assert batch.data.square().mean().item() == pytest.approx(moments.data, rel=0.03)
    assert batch.source.square().mean().item() == pytest.approx(moments.source, rel=0.03)
    assert (batch.data * batch.source).mean().item() == pytest.approx(moments.cross, rel=0.15)


def test_mixture_coupled_independently_has_a_normal_source() -> None:
    mixture = Mixture.normal(0.3, 2.0, source_mean=5.0, correlation=0.9)
    independent = mixture.coupled(matchlib.couplings["independent"]()).moments()
    assert (independent.source, independent.cross) == pytest.approx((1.0, 0.0))
    assert mixture.coupled(matchlib.couplings["paired"]()) is mixture


def test_best_critic_of_equal_distributions_is_their_field() -> None:
    """Where generated and real data are one distribution and the teacher is exact, there is nothing to gain."""
    real = Mixture.normal(0.7, 0.5)
    teacher = GaussianField(FLOW, real)
    critic = BestCritic(FLOW, real, real, teacher, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert torch.allclose(critic(STATE, TIME, Condition()), teacher(STATE, TIME, Condition()))


def test_gaussian_field_of_a_missing_label_is_that_of_all_classes() -> None:
    mean = torch.tensor([[[[-3.0], [0.0]]], [[[3.0], [0.0]]]], dtype=torch.float64)
    covariance = torch.eye(2, dtype=torch.float64).reshape(1, 1, 2, 1, 2, 1).expand(2, 1, 2, 1, 2, 1)
    model = matchlib.families["flow"]().model(paired=False)
    field = GaussianField(model, Mixture(torch.full((2, 1), 0.5, dtype=torch.float64), mean, covariance))
    state, time = (
        torch.randn(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
        torch.full((3,), 0.4, dtype=torch.float64),
    )
    for times in (time, time + torch.tensor([0.0, 0.1, 0.2])):  # one time for all, and several
        of_all = field(state, times, Condition())
        of_classes = field(state, times, Condition(torch.tensor([0, 1, 1])))
        mixed = field(state, times, Condition(torch.tensor([-1, 1, -1])))
        assert torch.allclose(mixed, torch.stack([of_all[0], of_classes[1], of_all[2]]))
