"""Eight Gaussians on a circle, with labels."""

from __future__ import annotations

import numpy as np

from matchlib.data import Dataset
from matchlib.errors import SettingError
from matchlib.registries import datasets

__all__ = ["eight_gaussians"]


@datasets.register("eight-gaussians")
def eight_gaussians(samples: int = 10_000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Eight equal Gaussians on a circle of radius 2; eight classes.

    Args:
        samples: in all, >= 4; a fifth is held out.
        noise: standard deviation of Gaussian noise added to each coordinate, >= 0.
        seed: of the drawing.
    """
    if samples < 4 or noise < 0:
        raise SettingError(f"eight-gaussians: samples >= 4 and noise >= 0 are required, got {samples}, {noise}")
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=samples)
    angle = 2 * np.pi * labels / 8
    centres = 2.0 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return Dataset.from_arrays("eight-gaussians", centres + noise * rng.standard_normal((samples, 2)), labels=labels)
