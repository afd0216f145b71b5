"""Share of samples that are suspiciously near to a training sample: a median does not see a minority of copies.

References:
    Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020,
    https://arxiv.org/abs/2004.05675
"""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.metric import Metric
from matchlib.plugins.metrics._nearest import to_training
from matchlib.registries import metrics

__all__ = ["Copies"]

QUANTILE = 0.05


@metrics.register("copies")
class Copies(Metric):
    """Share of samples as near to a training sample as the nearest 5% of held-out data are: .05 for new samples, 1 for memorised ones."""

    better = 0

    def score(self, samples: np.ndarray) -> float:
        limit = np.quantile(to_training(self.reference, self.reference.held_out), QUANTILE)
        return float((to_training(self.reference, samples) <= limit).mean())
