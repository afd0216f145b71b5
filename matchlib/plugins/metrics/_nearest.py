"""Distances to the nearest training sample, shared by the metrics that look for copies."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min

from matchlib.evaluation.metric import Reference

__all__ = ["to_training"]


def to_training(reference: Reference, x: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distance of each sample to the nearest training sample, ``(n, size) -> (n,)``, in model units."""
    return pairwise_distances_argmin_min(x, reference.train)[1]
