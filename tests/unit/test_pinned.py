"""Processes pinned at both ends."""

from __future__ import annotations

import torch

import matchlib
from matchlib.algebra.pinned import pin


def test_pin_keeps_the_distribution_of_the_process() -> None:
    """Averaged over the source that the process itself reaches, the bridge has the process's own distribution at every time."""
    bridge = matchlib.interpolants["linear-sde-bridge"](rate=0.7, g2=1.3, warp=0.5)
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    alpha, var = bridge.prior(t)
    alpha_1, var_1 = bridge.prior(torch.ones_like(t))
    a, b, c2 = pin((alpha, var), (alpha_1, var_1))
    assert torch.allclose(a + b * alpha_1, alpha)
    assert torch.allclose(c2 + b**2 * var_1, var)
