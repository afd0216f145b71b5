"""Densities of time and how they are drawn."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import matchlib
from matchlib.algebra.times import TimeDistribution, stratified_uniform
from matchlib.errors import SettingError
from matchlib.training.random import BatchSlice

CPU = torch.device("cpu")


@pytest.mark.parametrize("path", ["linear", "ve", "vp-linear", "brownian-bridge", "noisy-linear"])
def test_times_with_log_sigma_are_normal_in_its_logarithm(path: str) -> None:
    interpolant = matchlib.interpolants[path]()
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


@pytest.mark.parametrize(("mean", "std"), [(3.0, 0.3), (3.0, 0.05), (300.0, 1.0), (-9.0, 0.3), (-900.0, 1.0), (-3.0, 0.05)])
def test_times_far_from_the_interval_lie_at_the_end_next_to_it(mean: float, std: float) -> None:
    path, like, generator = matchlib.interpolants["linear"](), torch.empty(1000, 1), torch.Generator().manual_seed(0)
    t = TimeDistribution(0.3, 0.5, (mean, std)).sample(path, like, generator)
    assert (t - (0.5 if mean > 0 else 0.3)).abs().mean() < 0.02


def test_times_take_a_list() -> None:
    assert TimeDistribution(log_sigma=[0.0, 1.0]) == TimeDistribution(log_sigma=(0.0, 1.0))  # type: ignore[arg-type]
    assert hash(TimeDistribution(log_sigma=[0.0, 1.0]))  # type: ignore[arg-type]


def test_times_are_even_over_a_batch_and_uniform_over_batches() -> None:
    def draw(n: int, seed: int) -> torch.Tensor:
        return TimeDistribution().sample(matchlib.interpolants["linear"](), torch.empty(n, 1), torch.Generator().manual_seed(seed))

    assert (draw(10, 0).sort().values.diff() - 0.1).abs().max() < 1e-6
    first = torch.stack([draw(1, seed) for seed in range(2000)]).flatten()
    assert abs(first.mean() - 0.5) < 5 * (1 / 12 / 2000) ** 0.5


@pytest.mark.parametrize("times", [{"t_min": 0.5, "t_max": 0.5}, {"t_min": -0.1}, {"t_max": 1.1}, {"log_sigma": (0.0, 0.0)}])
def test_times_refuse_settings_outside_their_domain(times: dict) -> None:
    with pytest.raises(SettingError):
        TimeDistribution(**times)


def test_stratified_uniform_is_cut_out_of_the_draw_of_the_whole_batch() -> None:
    """Slices of a batch have the numbers that the batch has."""

    def draw(size: int) -> torch.Tensor:
        return stratified_uniform((size,), generator=torch.Generator().manual_seed(0), dtype=torch.float32, device=CPU)

    whole, parts = draw(7), []
    for part in BatchSlice.of(7).parts(3):
        with part.drawing():
            parts.append(draw(part.rows))
    assert [len(part) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("mode", [FakeTensorMode(allow_non_fake_inputs=True), torch.inference_mode()], ids=["fake", "inference"])
def test_times_first_drawn_under_a_mode_have_numbers_later(mode: object) -> None:
    """A memory plan may ask for times first; what is remembered of them is not of its mode."""
    path, times = matchlib.interpolants["linear"](), TimeDistribution(0.01, 0.99, (0.25, 0.5 + 0.01 * isinstance(mode, FakeTensorMode)))
    with mode:  # type: ignore[attr-defined]
        times.sample(path, torch.empty(3, 1), torch.Generator().manual_seed(0))
    weight = torch.ones(3, requires_grad=True)
    t = times.sample(path, torch.empty(3, 1), torch.Generator().manual_seed(0))
    (weight * t).sum().backward()
    assert ((t > 0.01) & (t < 0.99)).all()


def test_times_lie_inside_the_interval() -> None:
    """At its ends rows may be infinite. Seed 948 is one whose offset made a number of a batch wrap around to zero."""
    path = matchlib.interpolants["linear"]()
    t = TimeDistribution().sample(path, torch.empty(4096, 1), torch.Generator().manual_seed(948))
    assert t.min() > 0
    zero = torch.Generator()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *args, dtype, device, **more: torch.zeros((), dtype=dtype, device=device))
        assert TimeDistribution().sample(path, torch.empty(3, 1), zero).min() > 0
