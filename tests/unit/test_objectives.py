"""Objectives: closed forms that no law covers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import matchlib
from matchlib.errors import SettingError
from matchlib.plugins.objectives import drift_and_diffusion


@pytest.mark.parametrize("settings", [{}, {"rate": -0.7}, {"rate": 2.0, "g2": 0.3}])
def test_drift_and_diffusion_of_a_linear_bridge_are_those_of_its_sde(settings: dict) -> None:
    """dX = -rate X ds + sqrt(g2) dW: f = -rate and g^2 = g2 at every time, if its own time is time itself."""

    bridge = matchlib.interpolants["linear-sde-bridge"](**settings)
    f, g2 = drift_and_diffusion(bridge, torch.linspace(0.1, 0.9, 5, dtype=torch.float64))
    assert torch.allclose(f, torch.full_like(f, -bridge.rate), atol=1e-12)
    assert torch.allclose(g2, torch.full_like(g2, bridge.g2), atol=1e-12)


@pytest.mark.parametrize("parts", [(), ("data",), ("data", "data"), ("data", "joint"), "velocity"])
def test_joint_refuses_parts_that_are_not_two_different_rows(parts: object) -> None:
    with pytest.raises(SettingError, match="at least two different rows"):
        matchlib.objectives.joint(parts=parts)


@pytest.mark.parametrize("path", ["linear", "trigonometric", "noisy-linear", "brownian-bridge", "vp-linear"])
def test_path_velocity_is_the_slope_of_the_path_without_its_noise(path: str) -> None:
    """(a(t + h) - a(t - h)) / 2h of the data and likewise of the source; nothing of the noise."""
    interpolant = matchlib.interpolants[path]()
    model = replace(matchlib.families["interpolant"]().model(paired=False), interpolant=interpolant)
    t, h = torch.linspace(0.2, 0.8, 5, dtype=torch.float64), 1e-5
    row = matchlib.objectives["path-velocity"]().row(model, interpolant.coefficients(t))
    later, before = interpolant.coefficients(t + h), interpolant.coefficients(t - h)
    for found, one, other in ((row.data, later.a, before.a), (row.source, later.b, before.b)):
        assert torch.allclose(torch.as_tensor(found).double().expand(5), ((one - other) / (2 * h) + 0 * t), atol=1e-6)
    assert float(torch.as_tensor(row.noise).abs().max()) == 0
