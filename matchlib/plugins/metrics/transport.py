"""Distances between two sets of samples as distributions."""

from __future__ import annotations

import numpy as np
import ot
from scipy.spatial.distance import cdist

from matchlib.evaluation.reference import Metric, Reference
from matchlib.registry import metrics

__all__ = ["MMD", "SlicedWasserstein", "Wasserstein"]


@metrics.register("w2")
class Wasserstein(Metric):
    """By the network simplex, against as many training samples; in model units, lower is better. For events of up to three numbers.

    References:
        Flamary et al., "POT: Python Optimal Transport", 2021, https://jmlr.org/papers/v22/20-451.html
    """

    @staticmethod
    def applies(reference: Reference) -> bool:
        return reference.train.shape[1] <= 3

    def score(self, samples: np.ndarray) -> float:
        return float(np.sqrt(ot.emd2([], [], ot.dist(samples, self.reference.subset()))))


@metrics.register("sliced-wasserstein")
class SlicedWasserstein(Metric):
    """Root mean square over 256 fixed directions of the 1-D Wasserstein-2 distance; in model units, lower is better.

    References:
        Rabin, Peyré, Delon, Bernot, "Wasserstein Barycenter and Its Application to Texture Mixing", 2011,
        https://doi.org/10.1007/978-3-642-24785-9_37
    """

    def score(self, samples: np.ndarray) -> float:
        return float(ot.sliced_wasserstein_distance(samples, self.reference.train, n_projections=256, seed=0))


@metrics.register("mmd")
class MMD(Metric):
    """Squared, with a mixture of Gaussian kernels at 1/2, 1 and 2 times the median distance; may be negative, lower is better.

    References:
        Gretton et al., "A Kernel Two-Sample Test", 2012, https://jmlr.org/papers/v13/gretton12a.html (lemma 6)
    """

    def score(self, samples: np.ndarray) -> float:
        data = self.reference.subset()
        within, between = cdist(data, data, "sqeuclidean"), cdist(samples, data, "sqeuclidean")
        median = np.median(within[np.triu_indices_from(within, 1)])

        def kernel(squares: np.ndarray) -> np.ndarray:
            return np.mean([np.exp(-squares / (2 * median * h**2)) for h in (0.5, 1.0, 2.0)], axis=0)

        def off_diagonal(squares: np.ndarray) -> float:
            k = kernel(squares)
            return float((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))

        own = off_diagonal(cdist(samples, samples, "sqeuclidean"))
        return own + off_diagonal(within) - 2 * float(kernel(between).mean())
