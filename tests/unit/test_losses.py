"""Losses: refusals that say what to set."""

from __future__ import annotations

import math

import pytest

import matchlib
from matchlib.errors import SettingError


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("realuid", {"alpha": 2.0, "beta": 2.0}, "set gamma, for example gamma=0.5"),
        ("realuid", {"alpha": math.inf, "gamma": 0.5}, "beta must be inf too"),
        ("realuid", {"alpha": -1.0}, "alpha and beta must be positive"),
        ("realuid", {"ramp": 1.5}, r"ramp must lie in \[0, 1\]"),
        ("uid", {"weight_power": -1.0}, "weight_power must be at least 0"),
    ],
)
def test_losses_refuse_settings_outside_their_domain(name: str, settings: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        matchlib.losses[name](**settings)
