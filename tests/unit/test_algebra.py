"""Rows, times, models: edges that no law covers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import matchlib
from matchlib.algebra.model import MatchingModel, Moments, best_multiple
from matchlib.algebra.records import Batch
from matchlib.algebra.rows import Row, expand
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import IncompatibleError, SettingError

PATHS, PAIRS, ROWS = matchlib.interpolants, matchlib.couplings, matchlib.objectives


def test_a_time_of_another_size_is_refused_not_broadcast() -> None:
    """A batch whose size equals its width must not be scaled along the wrong axis."""
    x = torch.ones(5, 5)
    assert torch.equal(expand(torch.arange(5.0), x) * x, torch.arange(5.0)[:, None].expand(5, 5))
    with pytest.raises(ValueError, match="one time per sample"):
        expand(torch.ones(1), x)
    with pytest.raises(ValueError, match="one time per sample"):
        expand(torch.ones(5, 1), x)


def test_zero_coefficients_leave_latents_alone() -> None:
    x = torch.ones(2, 3)
    assert torch.equal(Row(data=2.0)(x, x * math.nan, None), 2 * x)
    assert torch.equal(Row()(x, x, None), torch.zeros(2, 3))


@pytest.mark.parametrize("path", ["linear", "ve", "vp-linear", "brownian-bridge", "noisy-linear"])
def test_log_ratio_times_are_normal_in_the_log_ratio(path: str) -> None:
    interpolant = PATHS[path]()
    times = TimeDistribution(0.01, 0.99, (-0.5, 0.7))
    t = times.sample(interpolant, torch.empty(20_000, 1, dtype=torch.float64), torch.Generator().manual_seed(0))
    at = interpolant.coefficients(t)
    ratio = 0.5 * torch.log(torch.as_tensor(at.variance)) - torch.log(torch.as_tensor(at.a).expand(t.shape))
    inside = interpolant.coefficients(torch.tensor([0.01, 0.99], dtype=torch.float64))
    edges = 0.5 * torch.log(inside.variance) - torch.log(torch.as_tensor(inside.a).expand(2))
    normal = torch.distributions.Normal(-0.5, 0.7)
    low, high = normal.cdf(edges)
    uniform = ((normal.cdf(ratio) - low) / (high - low)).sort().values
    assert (uniform - torch.linspace(0, 1, len(uniform), dtype=torch.float64)).abs().max() < 2e-3


def test_times_are_even_over_a_batch_and_uniform_over_batches() -> None:
    draw = lambda n, seed: TimeDistribution().sample(PATHS["linear"](), torch.empty(n, 1), torch.Generator().manual_seed(seed))  # noqa: E731
    assert (draw(10, 0).sort().values.diff() - 0.1).abs().max() < 1e-6
    first = torch.stack([draw(1, seed) for seed in range(2000)]).flatten()
    assert abs(first.mean() - 0.5) < 5 * (1 / 12 / 2000) ** 0.5


@pytest.mark.parametrize("times", [{"t_min": 0.5, "t_max": 0.5}, {"t_min": -0.1}, {"t_max": 1.1}, {"log_sigma": (0.0, 0.0)}])
def test_times_outside_their_domain_are_refused(times: dict) -> None:
    with pytest.raises(SettingError):
        TimeDistribution(**times)


def test_a_model_without_its_prediction_is_refused_when_composed() -> None:
    for coupling, path, objective in (
        ("independent", "linear", "noise"),
        ("independent", "linear", "drift"),
        ("paired", "linear", "score"),
        ("paired", "trigonometric", "epsilon"),
    ):
        with pytest.raises(IncompatibleError):
            MatchingModel(PAIRS[coupling](), PATHS[path](), ROWS[objective]())


def test_the_gradient_of_the_loss_reaches_the_data() -> None:
    model = matchlib.families["flow"]().model(paired=False)
    x = torch.randn(3, 2, requires_grad=True)
    loss = model.loss(lambda state, time, condition: state, Batch(x), generator=torch.Generator().manual_seed(0))
    assert loss.shape == (3,)
    assert torch.autograd.grad(loss.sum(), x)[0].abs().min() > 0


def test_whitened_rows_have_the_product_of_the_latents() -> None:
    """E[left right] from the moments equals the dot product of whitened rows."""
    moments = Moments(data=2.0, source=3.0, cross=1.5)
    left, right = Row(0.3, -1.2, 0.7), Row(2.0, 0.4, -0.1)
    expected = 0.3 * 2.0 * 2.0 - 1.2 * 0.4 * 3.0 + 0.7 * -0.1 + (0.3 * 0.4 - 1.2 * 2.0) * 1.5
    assert moments.whiten(left).dot(moments.whiten(right)) == pytest.approx(expected)


def test_the_best_multiple_leaves_a_rest_that_is_orthogonal_to_the_state() -> None:
    generator = torch.Generator().manual_seed(0)
    target, state = (torch.randn(6, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(6, generator=generator, dtype=torch.float64)
    rest = target - best_multiple(target, state, weight) * state
    assert abs((weight[:, None, None] * rest * state).sum().item()) < 1e-12
    assert best_multiple(3 * state, state).item() == pytest.approx(3.0)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", sorted(matchlib.families))
def test_a_point_beside_another_shares_what_the_data_leave_open(family: str, paired: bool) -> None:
    """Time and noise always; the source only where data and source are independent, for else it belongs to its data."""
    model = matchlib.families[family]().model(paired=paired)
    generator = torch.Generator().manual_seed(0)
    one, other = (Batch(*(torch.randn(8, 3, generator=generator) for _ in range(2))) for _ in range(2))
    point = model.sample_path(one, generator=generator)
    beside = model.beside(point, other, generator=generator)
    assert torch.equal(beside.data, other.data) and torch.equal(beside.time, point.time)
    assert point.noise is None if beside.noise is None else torch.equal(beside.noise, point.noise)
    assert torch.equal(beside.source, point.source) == model.coupling.independent
    assert torch.equal(beside.source, other.source) == model.coupling.paired
    at = point.coefficients
    assert torch.allclose(beside.state, at.state(beside.data, beside.source, beside.noise))


def test_labels_go_with_the_data_of_a_point_beside_another() -> None:
    model, generator = matchlib.families["flow"]().model(paired=False), torch.Generator().manual_seed(0)
    one, other = (Batch(torch.zeros(4, 2), None, torch.full((4,), label)) for label in (0, 1))
    beside = model.beside(model.sample_path(one, generator=generator), other, generator=generator)
    assert torch.equal(beside.condition.label, other.label)


def test_probe_keeps_inside_the_times_of_the_model() -> None:
    model = replace(matchlib.families.flow().model(paired=False), times=TimeDistribution(0.1, 0.9))
    assert model.probe().time.min() > 0.1
