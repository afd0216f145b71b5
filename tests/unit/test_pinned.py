"""Processes pinned at both ends."""

from __future__ import annotations

import math

import pytest
import torch

import matchlib
from matchlib.algebra.pinned import pin


def test_pin_keeps_the_distribution_of_the_process() -> None:
    """Averaged over the source that the process itself reaches, the bridge has the process's own distribution at every time."""
    bridge = matchlib.interpolants["linear-sde-bridge"](rate=0.7, g2=1.3, warp=0.5)
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    alpha, var = bridge.prior(t)
    alpha_1, var_1 = bridge.prior(torch.ones_like(t))
    a, b, c2 = pin((alpha, var), bridge.step(t, torch.ones_like(t)))
    assert torch.allclose(a + b * alpha_1, alpha)
    assert torch.allclose(c2 + b**2 * var_1, var)


@pytest.mark.parametrize("rate", [-40.0, -8.0, -0.5, 8.0, 40.0])
def test_pinned_processes_are_as_exact_in_float32(rate: float) -> None:
    """c^2 = g2 / rate sinh(rate t) sinh(rate (1 - t)) / sinh(rate): nothing cancels however fast the process grows."""
    bridge = matchlib.interpolants["linear-sde-bridge"](rate=rate)
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    exact = bridge.g2 / rate * torch.sinh(rate * t) * torch.sinh(rate * (1 - t)) / math.sinh(rate)
    assert torch.allclose(bridge.coefficients(t).c ** 2, exact, rtol=1e-9)
    assert torch.allclose(bridge.coefficients(t.float()).c.double() ** 2, exact, rtol=1e-4)
