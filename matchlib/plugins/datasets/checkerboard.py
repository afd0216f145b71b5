"""A checkerboard of squares in the plane."""

from __future__ import annotations

import numpy as np

from matchlib.data import Dataset
from matchlib.errors import SettingError
from matchlib.registries import datasets

__all__ = ["checkerboard"]


@datasets.register("checkerboard")
def checkerboard(samples: int = 10_000, noise: float = 0.0, seed: int = 0) -> Dataset:
    """Uniform on the eight black squares of a 4 x 4 board of side 4; no labels.

    Args:
        samples: in all, >= 4; a fifth is held out.
        noise: standard deviation of Gaussian noise added to each coordinate, >= 0.
        seed: of the drawing.
    """
    if samples < 4 or noise < 0:
        raise SettingError(f"checkerboard: samples >= 4 and noise >= 0 are required, got {samples}, {noise}")
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, samples)
    row = 2 * rng.integers(2, size=samples) + np.floor(x) % 2
    y = row - 2 + rng.uniform(size=samples)
    return Dataset.from_arrays("checkerboard", np.stack([x, y], 1) + noise * rng.standard_normal((samples, 2)))
