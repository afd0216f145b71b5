"""Distance to the nearest training sample, relative to that of held-out data: below one, samples are nearer than unseen data are.

References:
    Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020,
    https://arxiv.org/abs/2004.05675
"""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from matchlib.evaluation.metric import Metric
from matchlib.registries import metrics

__all__ = ["NearestRatio"]


@metrics.register("nearest-ratio")
class NearestRatio(Metric):
    """Median distance to the nearest training sample over that of the held-out data; near 0 for memorised samples, about 1 for new ones."""

    better = 0

    def score(self, samples: np.ndarray) -> float:
        def median(x: np.ndarray) -> float:
            return float(np.median(cdist(x, self.reference.train).min(1)))

        return median(samples) / median(self.reference.held_out)
