"""Defaults: rules with a closed form where there is one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import matchlib
from matchlib.distillation.defaults import (
    LARGEST,
    LR,
    Defaults,
    amplification,
    comparison_times,
    critic_steps,
    learning_rate,
    principal_variances,
)
from matchlib.registry import families
from matchlib.runs import settings
from matchlib.runs.build import build


def test_principal_variances_are_those_along_the_axes_of_the_data() -> None:
    """Two points at distance 2 r have variance r^2 along one axis; neither a rotation nor a shift nor the event's shape changes them."""
    for size in (1, 3, 5000):  # the last has more coordinates than samples
        x = torch.zeros(100, size)
        x[:50, 0], x[50:, 0] = 3.0, -3.0
        assert principal_variances(x + 7).tolist() == pytest.approx([9 * 100 / 99])
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))[0]
    x = torch.randn(900, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([4.0, *[0.5] * 7])
    found = principal_variances(x)
    assert principal_variances(x @ turn).tolist() == pytest.approx(found.tolist(), rel=1e-5)
    assert found.tolist() == pytest.approx([16.0, *[0.25] * 7], rel=0.25)
    assert found.sum() == pytest.approx(float(x.double().var(0).sum()))
    assert torch.equal(principal_variances(x.reshape(900, 2, 2, 2)), found)


@pytest.mark.parametrize("name", ["diffusion", "diffusion-vp"])
def test_defaults_start_where_noise_is_as_large_as_the_coarsest_structure(name: str) -> None:
    family = families[name]()
    model = family.model(paired=False)
    for scale in (1.0, 2.5, 7.0):
        x = torch.cat([torch.full((500, 1), scale), torch.full((500, 1), -scale)])
        found = family.defaults(paired=False).resolve(model, x, nn.Linear(1, 1))
        at = model.interpolant.coefficients(torch.tensor(found.t_start, dtype=torch.float64))
        assert math.sqrt(at.variance) / float(at.a) == pytest.approx(scale, rel=2e-3)


def test_defaults_of_wider_data_are_compared_at_more_noise() -> None:
    variances = torch.tensor([9.0, 1.0, 0.1], dtype=torch.float64)
    narrow, wide = (comparison_times(k**2 * variances).log_sigma for k in (1, 4))
    assert narrow is not None and wide is not None
    assert wide == pytest.approx((narrow[0] + math.log(4), narrow[1]))


def test_critics_learn_more_often_where_data_have_few_axes() -> None:
    assert [critic_steps(torch.ones(axes)) for axes in (1, 2, 3, 4, 784)] == [3, 3, 3, 1, 1]
    kept = {}
    for data, given in (("moons", {}), ("digits", {}), ("moons", {"trainer.critic_steps": 2})):
        parts = build(settings.resolve("distill", settings={"data.name": data, **given})).distillation
        assert parts is not None
        kept[data, *given] = parts.critic_steps
    assert kept == {("moons",): 3, ("digits",): 1, ("moons", "trainer.critic_steps"): 2}


def test_comparison_times_leave_the_coarsest_axes() -> None:
    """Noise of the mean is as large as the fourth axis; brightness, an axis far above all others, changes nothing; nor do axes of hardly
    any variance."""
    equal = torch.full((5,), 4.0, dtype=torch.float64)
    assert comparison_times(equal).log_sigma == pytest.approx((math.log(2), 1.0))
    few = torch.tensor([4.0, 0.25], dtype=torch.float64)  # fewer axes: scales 2 and 1/2, whose logs have mean 0
    assert comparison_times(few).log_sigma == pytest.approx((0.0, 1.0))
    ordered = torch.tensor([90.0, 50.0, 30.0, 16.0, 9.0, 1.0], dtype=torch.float64)
    plain = comparison_times(ordered).log_sigma
    assert plain == pytest.approx((math.log(4), 1.0))
    bright = torch.cat([ordered[:1] * 100, ordered[1:]])
    assert comparison_times(bright).log_sigma == pytest.approx((math.log(4), 1.0))
    assert comparison_times(torch.cat([ordered, torch.full((900,), 1e-9, dtype=torch.float64)])).log_sigma == pytest.approx(plain)


def test_comparison_times_are_as_wide_as_the_scales_of_the_data() -> None:
    """One axis has 10/11 of the variance, and the others' scales are a hundredth of its own: log scales deviate by ln 100 sqrt(10)/11."""
    heavy = torch.tensor([1e6, *[1e5 / 1000] * 1000], dtype=torch.float64)
    expected = math.log(100) * math.sqrt(10 / 121)
    assert comparison_times(heavy).log_sigma == pytest.approx((math.log(10), expected))


def test_learning_rate_is_inverse_to_the_inputs_of_a_unit() -> None:
    assert learning_rate(nn.Linear(310, 7)) == pytest.approx(LR / 310)
    assert learning_rate(nn.Conv2d(310, 7, 3)) == pytest.approx(LR / 310 / 9)
    assert learning_rate(nn.Sequential(nn.Linear(400, 10), nn.Linear(800, 5))) == pytest.approx(LR / 600)  # 4,000 weights each
    assert learning_rate(nn.Linear(2, 2)) == learning_rate(nn.LayerNorm(5)) == learning_rate(nn.Identity()) == LARGEST


def test_defaults_of_pairs_keep_the_times_of_their_model() -> None:
    family = families["bridge"]()
    defaults: Defaults = family.defaults(paired=True)
    assert defaults.resolve(family.model(paired=True), torch.randn(20, 3), nn.Linear(3, 3)).times is None


def test_defaults_of_an_own_teacher_start_where_its_data_prediction_is_sound() -> None:
    """The noise of a DDPM tells nothing of the data at t = 1, b/a = 152 there; a velocity, and DDPM's v, tell all."""
    sampler = matchlib.samplers["ode"]()
    vp = families["diffusion-vp"]().model(paired=False)
    at = vp.interpolant.coefficients(torch.tensor(1.0, dtype=torch.float64))
    assert amplification(vp) == pytest.approx(float(at.b / at.a))
    assert Defaults.of_model(vp, sampler, paired=False).t_start is None
    for model in (families["flow"]().model(paired=False), replace(vp, objective=matchlib.objectives["v"]())):
        assert amplification(model) == pytest.approx(1.0, rel=1e-3)
        assert Defaults.of_model(model, sampler, paired=False).t_start == 1.0


def test_settings_state_the_numbers_of_the_rule_for_step_sizes() -> None:
    text = Path(settings.__file__).read_text()
    assert text.count(f"null for {LR:g} over the mean inputs of its units, at most {LARGEST:.0e}".replace("e-03", "e-3")) == 2
