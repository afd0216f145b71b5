"""Two half moons in the plane, with labels."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import make_moons

from matchlib.data import Dataset
from matchlib.errors import SettingError
from matchlib.registries import datasets

__all__ = ["moons"]


@datasets.register("moons")
def moons(samples: int = 10_000, noise: float = 0.05, seed: int = 0) -> Dataset:
    """Two interleaved half circles; two classes.

    Args:
        samples: in all, >= 4; a fifth is held out.
        noise: standard deviation of Gaussian noise added to each coordinate, >= 0.
        seed: of the drawing.
    """
    if samples < 4 or noise < 0:
        raise SettingError(f"moons: samples >= 4 and noise >= 0 are required, got {samples}, {noise}")
    points, labels = make_moons(samples, noise=noise, random_state=seed)
    return Dataset.from_arrays("moons", np.asarray(points), labels=labels)
