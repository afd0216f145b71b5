"""A spiral in the plane."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import make_swiss_roll

from matchlib.data import Dataset
from matchlib.errors import SettingError
from matchlib.registries import datasets

__all__ = ["swiss_roll"]


@datasets.register("swiss-roll")
def swiss_roll(samples: int = 10_000, noise: float = 0.05, seed: int = 0) -> Dataset:
    """The swiss roll of scikit-learn without its depth, a tenth of its size; no labels.

    Args:
        samples: in all, >= 4; a fifth is held out.
        noise: standard deviation of Gaussian noise added to each coordinate, >= 0.
        seed: of the drawing.
    """
    if samples < 4 or noise < 0:
        raise SettingError(f"swiss-roll: samples >= 4 and noise >= 0 are required, got {samples}, {noise}")
    points, _ = make_swiss_roll(samples, noise=0.0, random_state=seed)
    flat = np.asarray(points)[:, [0, 2]] / 10
    return Dataset.from_arrays("swiss-roll", flat + noise * np.random.default_rng(seed).standard_normal(flat.shape))
