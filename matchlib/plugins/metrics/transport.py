"""Distances between two sets of samples as distributions, in model units."""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.reference import Reference
from matchlib.registry import metrics

__all__ = ["mmd", "sliced_wasserstein", "w2"]


@metrics.register("w2", applies=lambda reference: reference.train.shape[1] <= 3)
def w2(reference: Reference, samples: np.ndarray) -> float:
    """Returns the Wasserstein-2 distance to as many training samples; lower is better. For events of up to three numbers.

    References:
        Flamary et al., "POT: Python Optimal Transport", 2021, https://jmlr.org/papers/v22/20-451.html (network simplex)
    """
    import ot

    return float(np.sqrt(ot.emd2([], [], ot.dist(samples, reference.subset))))


@metrics.register("sliced-wasserstein")
def sliced_wasserstein(reference: Reference, samples: np.ndarray) -> float:
    """Returns the root mean square over 256 fixed directions of the 1-D Wasserstein-2 distance; lower is better.

    References:
        Rabin, Peyré, Delon, Bernot, "Wasserstein Barycenter and Its Application to Texture Mixing", 2011,
        https://doi.org/10.1007/978-3-642-24785-9_37
    """
    import ot

    return float(ot.sliced_wasserstein_distance(samples, reference.train, n_projections=256, seed=0))


@metrics.register("mmd")
def mmd(reference: Reference, samples: np.ndarray) -> float:
    """Returns the squared discrepancy by Gaussian kernels at 1/2, 1 and 2 times the median distance; may be negative, lower is better.

    References:
        Gretton et al., "A Kernel Two-Sample Test", 2012, https://jmlr.org/papers/v13/gretton12a.html (lemma 6)
    """
    median, within = reference.once(_within)
    between = _kernel(_squares(samples, reference.subset), median)
    return _off_diagonal(_kernel(_squares(samples, samples), median)) + within - 2 * float(between.mean())


def _squares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(x, y, "sqeuclidean")


def _kernel(squares: np.ndarray, median: float) -> np.ndarray:
    return np.mean([np.exp(-squares / (2 * median * h**2)) for h in (0.5, 1.0, 2.0)], axis=0)


def _off_diagonal(kernel: np.ndarray) -> float:
    return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))


def _within(reference: Reference) -> tuple[float, float]:
    """The median squared distance of the data, and their mean kernel."""
    squares = _squares(reference.subset, reference.subset)
    median = np.median(squares[np.triu_indices_from(squares, 1)])
    return median, _off_diagonal(_kernel(squares, median))
