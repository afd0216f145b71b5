"""Scikit-learn's 1,797 handwritten digits, 8 x 8, with labels.

References:
    Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49
"""

from __future__ import annotations

from sklearn.datasets import load_digits

from matchlib.data import Dataset
from matchlib.registries import datasets

__all__ = ["digits"]


@datasets.register("digits")
def digits() -> Dataset:
    """1,437 training and 360 held-out images of shape (1, 8, 8), values 0 to 16, ten classes."""
    images, labels = load_digits(return_X_y=True)
    return Dataset.from_arrays("digits", images.reshape(-1, 1, 8, 8), labels=labels)
