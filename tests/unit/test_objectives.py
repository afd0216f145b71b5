"""Objectives: closed forms that no law covers."""

from __future__ import annotations

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
