"""Distance to the nearest training sample, relative to that of held-out data: below one, samples are nearer than unseen data are.

References:
    Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020,
    https://arxiv.org/abs/2004.05675
"""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.metric import Metric
from matchlib.plugins.metrics._nearest import to_training
from matchlib.registries import metrics

__all__ = ["NearestRatio"]


@metrics.register("nearest-ratio")
class NearestRatio(Metric):
    """Median distance to the nearest training sample over that of the held-out data; near 0 for memorised samples, about 1 for new ones."""

    better = 0

    def score(self, samples: np.ndarray) -> float:
        made, unseen = (np.median(to_training(self.reference, x)) for x in (samples, self.reference.held_out))
        return float(made / unseen)
