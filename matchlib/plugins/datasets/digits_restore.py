"""Pairs made of the digits: degraded to clean."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from matchlib.data import Dataset
from matchlib.registries import datasets

__all__ = ["digits_restore"]


@datasets.register("digits-restore")
def digits_restore(noise: float = 1.0) -> Dataset:
    """The digits, each with its mean over 2 x 2 blocks (at the original size) and a little fixed noise as source.

    Args:
        noise: standard deviation of the noise added to the source, in grey levels of 16, >= 0.
    """
    images, labels = load_digits(return_X_y=True)
    clean = images.reshape(-1, 1, 4, 2, 4, 2)
    pooled = np.broadcast_to(clean.mean((3, 5), keepdims=True), clean.shape).reshape(-1, 1, 8, 8)
    degraded = pooled + noise * np.random.default_rng(0).standard_normal(pooled.shape)
    return Dataset.from_arrays("digits-restore", clean.reshape(-1, 1, 8, 8), source=degraded, labels=labels)
