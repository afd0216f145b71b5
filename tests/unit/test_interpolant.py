"""Interpolants stated by their coefficients alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import matchlib
from matchlib import MatchingModel, ScheduledInterpolant
from matchlib.algebra.records import Batch


@dataclass(frozen=True)
class Smoothstep(ScheduledInterpolant):
    """c = spread t (1 - t), and nothing else stated."""

    spread: float = 0.2

    def schedule(self, t: Tensor) -> tuple[Any, Any, Any]:
        b = t * t * (3 - 2 * t)
        return 1 - b, b, self.spread * t * (1 - t)


@dataclass(frozen=True)
class Whole(ScheduledInterpolant):
    """A path whose constant is an integer."""

    def schedule(self, t: Tensor) -> tuple[Any, Any, Any]:
        return 1 - t, t, 0


def test_interpolant_that_states_only_a_schedule_is_trained_with_its_noise() -> None:
    path = Smoothstep()
    assert path.noisy
    model = MatchingModel(matchlib.couplings["independent"](), path, matchlib.objectives["noise"]())
    point = model.sample_path(Batch(torch.zeros(5, 2)), generator=torch.Generator().manual_seed(0))
    assert point.noise is not None
    assert torch.allclose(point.state, path.coefficients(point.time).state(point.data, point.source, point.noise))
    assert not torch.allclose(point.state, path.coefficients(point.time).state(point.data, point.source, None))


@pytest.mark.parametrize("name", sorted(matchlib.interpolants))
def test_interpolant_is_noisy_where_its_c_is_not_zero(name: str) -> None:
    path = matchlib.interpolants[name]()
    c = torch.as_tensor(path.coefficients(torch.tensor([0.5], dtype=torch.float64)).c)
    assert path.noisy == bool(c != 0)


def test_interpolant_without_noise_may_state_an_integer_zero() -> None:
    assert not Whole().noisy
    assert not Whole.__dict__.get("noisy")
    x = torch.ones(2, 3)
    assert torch.equal(Whole().coefficients(torch.tensor([0.0, 1.0])).state(x, 2 * x, None), torch.tensor([[1.0] * 3, [2.0] * 3]))
