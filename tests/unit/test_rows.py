"""Rows: coefficients and latents."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from matchlib.algebra.rows import Row, expand, is_zero


def test_expand_refuses_a_time_of_another_size() -> None:
    """A batch whose size equals its width must not be scaled along the wrong axis."""
    x = torch.ones(5, 5)
    assert torch.equal(expand(torch.arange(5.0), x) * x, torch.arange(5.0)[:, None].expand(5, 5))
    with pytest.raises(ValueError, match="one time per sample"):
        expand(torch.ones(1), x)
    with pytest.raises(ValueError, match="one time per sample"):
        expand(torch.ones(5, 1), x)


def test_row_leaves_a_latent_of_coefficient_zero_alone() -> None:
    x = torch.ones(2, 3)
    assert torch.equal(Row(data=2.0)(x, x * math.nan, None), 2 * x)
    assert torch.equal(Row()(x, x, None), torch.zeros(2, 3))


def test_is_zero_means_identically_zero() -> None:
    """A number may be an integer; a tensor of zeros is a coefficient like any other."""
    assert is_zero(0.0) and is_zero(0)
    assert not is_zero(1) and not is_zero(torch.zeros(3))


def test_row_takes_integers_for_coefficients() -> None:
    x = torch.ones(2, 3)
    assert torch.equal(Row(1, 0, 2)(x, x * math.nan, x), 3 * x)
    assert Row(1, 0, 2).dot(Row(0, 1, 0)) == 0.0


def test_row_stack_copies_nothing_from_the_host() -> None:
    """On a device, a constant that is copied to it makes the host wait; shapes of a device that is not there tell."""

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "_to_copy" not in str(function), "a copy"
            return function(*args, **(kwargs or {}))

    with FakeTensorMode(), Copies():
        t = torch.empty(3, dtype=torch.float64, device="cuda")
        stacked = Row(1.0, t, -0.5).stack(t)
    assert stacked.shape == (3, 3)
    assert stacked.device.type == "cuda"
