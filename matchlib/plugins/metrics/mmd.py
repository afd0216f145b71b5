"""Kernel maximum mean discrepancy, unbiased.

References:
    Gretton et al., "A Kernel Two-Sample Test", 2012, https://jmlr.org/papers/v13/gretton12a.html (lemma 6)
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from matchlib.evaluation.metric import Metric
from matchlib.registries import metrics

__all__ = ["MMD"]


@metrics.register("mmd")
class MMD(Metric):
    """Squared, with a mixture of Gaussian kernels at 1/2, 1 and 2 times the median distance; may be negative, lower is better."""

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
