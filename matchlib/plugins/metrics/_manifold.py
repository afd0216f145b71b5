"""Nearest-neighbour balls in feature space, shared by precision, recall, density and coverage.

References:
    Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019, https://arxiv.org/abs/1904.06991
    Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from matchlib.evaluation.metric import Reference

__all__ = ["NEIGHBOURS", "balls"]

NEIGHBOURS = 5


def _radii(x: np.ndarray) -> np.ndarray:
    """Distance of each point to its NEIGHBOURS-th nearest other."""
    k = min(NEIGHBOURS, len(x) - 1)
    return np.partition(cdist(x, x), k, axis=1)[:, k]


def balls(reference: Reference, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two boolean tables ``(real, generated)``: generated point in real point's ball, and the reverse."""
    real, fake = reference.features(reference.subset()), reference.features(samples)
    distance = cdist(real, fake)
    return distance < _radii(real)[:, None], distance < _radii(fake)[None, :]
