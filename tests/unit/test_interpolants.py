"""Interpolants: closed forms, and others' numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import PchipInterpolator

import matchlib
from matchlib.plugins.interpolants import monotone_cubic

PATHS = matchlib.interpolants


def test_brownian_bridge_coefficients() -> None:
    """The textbook bridge: a = 1 - t, b = t, c^2 = epsilon t (1 - t)."""
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    at = PATHS["brownian-bridge"](epsilon=2.0).coefficients(t)
    expected = torch.stack([1 - t, t, (2 * t * (1 - t)).sqrt()], -1)
    assert torch.allclose(at.state.stack(t), expected, atol=1e-12)


def test_ve_times_are_the_steps_of_edm() -> None:
    """Karras et al. 2022, equation 5, with sigma_min = 0.002, sigma_max = 80, rho = 7 and N = 18."""
    path = PATHS["ve"]()
    n, low, high, rho = 18, 0.002, 80.0, 7.0
    t = torch.linspace(1.0, path.time(low), n, dtype=torch.float64)
    i = torch.arange(n, dtype=torch.float64)
    karras = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    assert torch.allclose(path.coefficients(t).state.stack(t)[:, 1], karras)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [2, 3, 50, 1000])
def test_monotone_cubic_has_the_coefficients_of_scipy(kind: str, steps: int) -> None:
    path = PATHS["vp-discrete"](kind=kind, steps=steps)
    x = np.arange(steps + 1) / steps
    y = path.prior(torch.as_tensor(x))[0].log().numpy()
    assert np.array_equal(monotone_cubic(x, y), PchipInterpolator(x, y).c)


def test_monotone_cubic_at_an_end_that_would_overshoot() -> None:
    """Where the estimate of an end's slope has the other sign it is zero, as scipy has it."""
    x, y = np.array([0.0, 1.0, 2.0, 3.0]), np.array([0.0, -0.1, -5.0, -5.05])
    assert np.array_equal(monotone_cubic(x, y), PchipInterpolator(x, y).c)
    assert monotone_cubic(x, y)[2, 0] == 0.0


def test_vp_discrete_is_its_product_at_each_level() -> None:
    path = PATHS["vp-discrete"](steps=20)
    product = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 20, dtype=torch.float64), 0).sqrt()
    a = path.coefficients(torch.arange(1, 21, dtype=torch.float64) / 20).a
    assert torch.allclose(a, product, rtol=1e-12)
