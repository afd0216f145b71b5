"""Data sets that come with scikit-learn, or are drawn in the plane."""

from __future__ import annotations

import numpy as np

from matchlib.data.dataset import Dataset
from matchlib.errors import SettingError
from matchlib.registry import datasets

__all__ = ["checkerboard", "digits", "digits_restore", "eight_gaussians", "moons", "swiss_roll"]


@datasets.register("digits")
def digits() -> Dataset:
    """1,437 training and 360 held-out images of shape (1, 8, 8), values 0 to 16, ten classes.

    References:
        Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return Dataset.from_arrays("digits", images.reshape(-1, 1, 8, 8), labels=labels)


@datasets.register("digits-restore")
def digits_restore(noise: float = 1.0) -> Dataset:
    """The digits, each with its mean over 2 x 2 blocks (at the original size) and a little fixed noise as source.

    Args:
        noise: standard deviation of the noise added to the source, in grey levels of 16, >= 0.
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    clean = images.reshape(-1, 1, 4, 2, 4, 2)
    pooled = np.broadcast_to(clean.mean((3, 5), keepdims=True), clean.shape).reshape(-1, 1, 8, 8)
    degraded = pooled + noise * np.random.default_rng(0).standard_normal(pooled.shape)
    return Dataset.from_arrays("digits-restore", clean.reshape(-1, 1, 8, 8), source=degraded, labels=labels)


def _validate(name: str, samples: int, noise: float) -> None:
    if samples < 4 or noise < 0:
        raise SettingError(f"{name}: samples >= 4 and noise >= 0 are required, got {samples}, {noise}")


@datasets.register("moons")
def moons(samples: int = 10_000, noise: float = 0.05, seed: int = 0) -> Dataset:
    """Two interleaved half circles; two classes.

    Args:
        samples: in all, >= 4; a fifth is held out.
        noise: standard deviation of Gaussian noise added to each coordinate, >= 0.
        seed: of the drawing.
    """
    _validate("moons", samples, noise)
    from sklearn.datasets import make_moons

    points, labels = make_moons(samples, noise=noise, random_state=seed)
    return Dataset.from_arrays("moons", np.asarray(points), labels=labels)


@datasets.register("eight-gaussians")
def eight_gaussians(samples: int = 10_000, noise: float = 0.1, seed: int = 0) -> Dataset:
    """Eight equal Gaussians on a circle of radius 2; eight classes.

    Args:
        samples: in all, >= 4; a fifth is held out.
        noise: standard deviation of Gaussian noise added to each coordinate, >= 0.
        seed: of the drawing.
    """
    _validate("eight-gaussians", samples, noise)
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=samples)
    angle = 2 * np.pi * labels / 8
    centres = 2.0 * np.stack([np.cos(angle), np.sin(angle)], 1)
    return Dataset.from_arrays("eight-gaussians", centres + noise * rng.standard_normal((samples, 2)), labels=labels)


@datasets.register("checkerboard")
def checkerboard(samples: int = 10_000, noise: float = 0.0, seed: int = 0) -> Dataset:
    """Uniform on the eight black squares of a 4 x 4 board of side 4; no labels.

    Args:
        samples: in all, >= 4; a fifth is held out.
        noise: standard deviation of Gaussian noise added to each coordinate, >= 0.
        seed: of the drawing.
    """
    _validate("checkerboard", samples, noise)
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, samples)
    row = 2 * rng.integers(2, size=samples) + np.floor(x) % 2
    y = row - 2 + rng.uniform(size=samples)
    return Dataset.from_arrays("checkerboard", np.stack([x, y], 1) + noise * rng.standard_normal((samples, 2)))


@datasets.register("swiss-roll")
def swiss_roll(samples: int = 10_000, noise: float = 0.05, seed: int = 0) -> Dataset:
    """The swiss roll of scikit-learn without its depth, a tenth of its size; no labels.

    Args:
        samples: in all, >= 4; a fifth is held out.
        noise: standard deviation of Gaussian noise added to each coordinate, >= 0.
        seed: of the drawing.
    """
    _validate("swiss-roll", samples, noise)
    from sklearn.datasets import make_swiss_roll

    points, _ = make_swiss_roll(samples, noise=0.0, random_state=seed)
    flat = np.asarray(points)[:, [0, 2]] / 10
    return Dataset.from_arrays("swiss-roll", flat + noise * np.random.default_rng(seed).standard_normal(flat.shape))
