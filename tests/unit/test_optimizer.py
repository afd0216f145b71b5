"""matchlib.training.optimizer: Adam's step, its guard, clipping and averages."""

from __future__ import annotations

import math

import pytest
import torch
from fixtures.trainings import Operations
from torch import nn

from matchlib.training.distributed import SingleProcess
from matchlib.training.optimizer import EMA, TrainState
from matchlib.training.task import Learner


def test_ema_of_constant_weights_is_those_weights() -> None:
    module = nn.Linear(2, 2)
    ema = EMA(module, [0.9])
    before = [w.clone() for w in module.parameters()]
    with torch.no_grad():
        for w in module.parameters():
            w.add_(1.0)
    for _ in range(500):
        ema.update()
    assert all(torch.allclose(w, b + 1) for w, b in zip(ema.copy().parameters(), before, strict=True))


def one_weight(betas: tuple[float, float] = (0.9, 0.999)) -> TrainState:
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(5))
    return TrainState(Learner(module, betas=betas), SingleProcess())


def test_train_state_step_is_that_of_torchs_adam() -> None:
    state, weight = one_weight(), nn.Parameter(torch.zeros(5))
    adam = torch.optim.Adam([weight], lr=1e-3, betas=(0.9, 0.999), fused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        gradient = torch.randn(5, generator=generator)
        state.weights[0].grad, weight.grad = gradient.clone(), gradient.clone()
        state.step(1e-3)
        adam.step()
    assert torch.equal(state.weights[0], weight)


def moves(gradients: list[float], adaptive_clip: float) -> list[float]:
    """How far a weight moves at each step, in units of the learning rate."""
    state, distances = one_weight((0.0, 0.99)), []
    (weight,) = state.weights
    for size in gradients:
        before, weight.grad = weight.detach().clone(), torch.full((5,), size)
        state.step(1e-3, math.inf, adaptive_clip)
        distances.append((weight.detach() - before).abs().max().item() / 1e-3)
    return distances


def test_train_state_adaptive_clip_bounds_the_step_of_a_sudden_gradient() -> None:
    """Adam steps by s / sqrt(beta_2 + (1 - beta_2) s^2) along a gradient s times those before: 1 for 1, toward 10 for a large s."""
    for clip, largest in ((math.inf, 10.0), (3.0, 3 / math.sqrt(0.99 + 0.01 * 9))):
        distances = moves([1.0] * 300 + [1e4], clip)
        assert distances[299] == pytest.approx(1.0, rel=1e-3)
        assert distances[300] == pytest.approx(largest, rel=0.03)


def test_train_state_typical_norm_follows_lasting_gradients_and_leaves_out_what_is_not_finite() -> None:
    """A lasting growth is let through before long; a gradient that is zero at first or not finite does not spoil the typical norm."""
    lasting = moves([1.0] * 300 + [100.0] * 300, 3.0)
    assert lasting[-1] == pytest.approx(1.0, rel=0.1)
    assert moves([0.0] * 10 + [1.0] * 5, 3.0)[10] > 1
    clipped = 3 / math.sqrt(1 + 8 * 0.01 / (1 - 0.99**52))  # of the 52nd step that counts
    for bad in (math.nan, 1e38):  # the second is finite, its norm is not
        assert moves([1.0] * 50 + [bad, 1.0, 1e4], 3.0)[50:] == [0.0, pytest.approx(1.0, rel=1e-3), pytest.approx(clipped, rel=1e-3)]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_train_state_step_skips_a_gradient_that_is_not_finite(bad: float) -> None:
    """Without clipping too; a large gradient is finite even where its square is not."""
    state = one_weight()
    (weight,) = state.weights
    weight.grad = torch.tensor([0.0, 1.0, bad, 1.0, 1.0])
    state.step(1e-3)
    assert torch.equal(weight, torch.zeros(5))
    assert (int(state.skipped), int(state.moments["step"][0])) == (1, 0)
    weight.grad = torch.full((5,), 1e30)
    state.step(1e-3)
    assert (int(state.skipped), int(state.moments["step"][0])) == (1, 1)


def test_train_state_step_leaves_a_weight_without_gradient_alone() -> None:
    module = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    state = TrainState(Learner(module), SingleProcess())
    before = module[1].weight.clone()
    module[0](torch.ones(1, 2)).sum().backward()
    state.step(1e-3)
    assert torch.equal(module[1].weight, before)
    state.clear()
    state.step(1e-3)
    assert all(weight.grad is None for weight in state.weights)


def test_train_state_step_takes_as_many_operations_for_many_weights_as_for_few() -> None:
    """No loop over parameters in Python: not in the optimiser, the guard, clipping or the averages."""
    counts = []
    for depth in (1, 20):
        module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))
        state = TrainState(Learner(module, extra_ema_decays=(0.9, 0.99)), SingleProcess())
        for _ in range(2):
            for weight in state.weights:
                weight.grad = torch.ones_like(weight)
            with Operations() as operations:
                state.step(1e-3, 1.0, 3.0)
        counts.append(operations.counts)
    assert counts[0] == counts[1]


def test_train_state_load_restores_what_tensors_yields_and_refuses_other_shapes() -> None:
    state, other = one_weight(), one_weight()
    state.weights[0].grad = torch.arange(5.0)
    state.step(1e-2, 0.5)
    saved = {key: x.detach().clone() for key, x in state.tensors()}
    other.load(saved)
    assert all(torch.equal(x, saved[key]) for key, x in other.tensors())
    with pytest.raises(RuntimeError, match=r"shape \(1,\) where \(5,\) is needed"):
        other.load(saved | {"module/weight": torch.zeros(1)})
    with pytest.raises(KeyError, match="module/more have no place"):
        other.load(saved | {"module/more": torch.zeros(1)})
