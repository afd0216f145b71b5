"""Exact Wasserstein-2 distance, for low-dimensional data.

References:
    Flamary et al., "POT: Python Optimal Transport", 2021, https://jmlr.org/papers/v22/20-451.html
"""

from __future__ import annotations

import numpy as np
import ot

from matchlib.evaluation.metric import Metric, Reference
from matchlib.registries import metrics

__all__ = ["Wasserstein"]


@metrics.register("w2")
class Wasserstein(Metric):
    """By the network simplex, against as many training samples; in model units, lower is better. For events of up to three numbers."""

    @staticmethod
    def applies(reference: Reference) -> bool:
        return reference.train.shape[1] <= 3

    def score(self, samples: np.ndarray) -> float:
        return float(np.sqrt(ot.emd2([], [], ot.dist(samples, self.reference.subset()))))
