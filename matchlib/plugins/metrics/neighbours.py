"""Fidelity, diversity and copying, from nearest neighbours.

A ball around each point reaches to its ``NEIGHBOURS``-th nearest other. Real points are as many training samples as there are samples.

References:
    Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019, https://arxiv.org/abs/1904.06991
    Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
    Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020,
    https://arxiv.org/abs/2004.05675 (nearest-ratio and copies)
"""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.reference import Reference
from matchlib.registry import metrics

__all__ = ["NEIGHBOURS", "QUANTILE", "copies", "coverage", "density", "nearest_ratio", "precision", "recall"]

NEIGHBOURS = 5
QUANTILE = 0.05


@metrics.register("precision", better=1)
def precision(reference: Reference, samples: np.ndarray) -> float:
    """Returns the share of samples inside the balls of real points: fidelity."""
    return float(_in_real_balls(reference, samples).any(0).mean())


@metrics.register("recall", better=1)
def recall(reference: Reference, samples: np.ndarray) -> float:
    """Returns the share of real points inside the balls of samples: diversity."""
    fake = reference.features(samples)
    distance = _distances(reference.once(_real)[0], fake)
    return float((distance < _radii(fake)[None, :]).any(1).mean())


@metrics.register("density", better=1)
def density(reference: Reference, samples: np.ndarray) -> float:
    """Returns the mean number of real balls that hold a sample, over the number of neighbours: fidelity."""
    return float(_in_real_balls(reference, samples).sum(0).mean() / NEIGHBOURS)


@metrics.register("coverage", better=1)
def coverage(reference: Reference, samples: np.ndarray) -> float:
    """Returns the share of real balls that hold a sample: diversity."""
    return float(_in_real_balls(reference, samples).any(1).mean())


@metrics.register("nearest-ratio", better=0)
def nearest_ratio(reference: Reference, samples: np.ndarray) -> float:
    """Returns the median distance to the nearest training sample over that of held-out data: 0 if memorised, about 1 if new."""
    return float(np.median(_to_training(reference, samples)) / np.median(reference.once(_unseen)))


@metrics.register("copies", better=0)
def copies(reference: Reference, samples: np.ndarray) -> float:
    """Returns the share of samples as near to a training sample as the nearest 5% of held-out data: .05 if new, 1 if memorised."""
    return float((_to_training(reference, samples) <= np.quantile(reference.once(_unseen), QUANTILE)).mean())


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(x, y)


def _radii(x: np.ndarray) -> np.ndarray:
    """Distance of each point to its NEIGHBOURS-th nearest other."""
    k = min(NEIGHBOURS, len(x) - 1)
    return np.partition(_distances(x, x), k, axis=1)[:, k]


def _real(reference: Reference) -> tuple[np.ndarray, np.ndarray]:
    """Features of real points, and the radii of their balls."""
    real = reference.features(reference.subset)
    return real, _radii(real)


def _in_real_balls(reference: Reference, samples: np.ndarray) -> np.ndarray:
    """Whether each sample lies in each real point's ball, ``(real, samples)``."""
    real, radii = reference.once(_real)
    return _distances(real, reference.features(samples)) < radii[:, None]


def _to_training(reference: Reference, x: np.ndarray) -> np.ndarray:
    """Euclidean distance of each sample to the nearest training sample, ``(n, size) -> (n,)``."""
    from sklearn.metrics import pairwise_distances_argmin_min

    return pairwise_distances_argmin_min(x, reference.train)[1]


def _unseen(reference: Reference) -> np.ndarray:
    return _to_training(reference, reference.held_out)
