"""Data sets of matchlib."""

from __future__ import annotations

import pytest

import matchlib
from matchlib.errors import SettingError


@pytest.mark.parametrize("name", ["moons", "eight-gaussians", "checkerboard", "swiss-roll"])
@pytest.mark.parametrize("settings", [{"samples": 3}, {"noise": -0.1}])
def test_datasets_of_the_plane_refuse_too_few_samples_and_negative_noise(name: str, settings: dict) -> None:
    with pytest.raises(SettingError, match=f"{name}: samples >= 4 and noise >= 0 are required"):
        matchlib.datasets[name](**settings)


@pytest.mark.parametrize("name", ["moons", "eight-gaussians", "checkerboard", "swiss-roll"])
def test_datasets_of_the_plane_are_drawn_by_their_seed(name: str) -> None:
    one, same, other = (matchlib.datasets[name](samples=20, seed=seed).train.data for seed in (1, 1, 2))
    assert one.shape == (16, 2)
    assert (one == same).all() and (one != other).any()
