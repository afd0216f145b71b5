"""Losses: refusals that say what to set."""

from __future__ import annotations

import math

import pytest

import matchlib
from matchlib.errors import SettingError


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("realuid", {"alpha": 2.0, "gamma": 2.0}, "set gamma, for example gamma=0.5"),
        ("realuid", {"alpha": math.inf, "beta": 2.0}, "beta must be inf too"),
        ("realuid", {"alpha": -1.0}, "alpha and beta must be positive"),
        ("realuid", {"ramp": 1.5}, r"ramp must lie in \[0, 1\]"),
        ("uid", {"weight_power": -1.0}, "weight_power must be at least 0"),
    ],
)
def test_losses_refuse_settings_outside_their_domain(name: str, settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        matchlib.losses[name](**settings)


@pytest.mark.parametrize(
    ("given", "all_three"),
    [
        ({}, (1.0, 1.0, 1.0)),
        ({"alpha": 8.0}, (8.0, 8.0, 0.5)),
        ({"alpha": 0.5}, (0.5, 0.5, 0.5)),
        ({"alpha": 0.92, "beta": 0.94}, (0.92, 0.94, 0.92)),
        ({"alpha": 8.0, "gamma": 0.3}, (8.0, 8.0, 0.3)),
        ({"alpha": math.inf}, (math.inf, math.inf, 0.5)),
    ],
)
def test_realuid_chooses_beta_and_gamma_by_alpha(given: dict, all_three: tuple[float, float, float]) -> None:
    """beta is alpha, and gamma is alpha where the critic's maximum is finite there, else 1/2."""
    loss = matchlib.RealUID(**given)
    assert (loss.alpha, loss.beta, loss.gamma) == all_three


def test_realuid_caution_names_alpha_and_beta_that_differ() -> None:
    assert matchlib.RealUID(alpha=8.0).caution is None
    assert "alpha=2 and beta=3 differ" in str(matchlib.RealUID(alpha=2.0, beta=3.0).caution)
