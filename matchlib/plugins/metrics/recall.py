"""Recall in feature space.

References:
    Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.metric import Metric
from matchlib.plugins.metrics._manifold import balls
from matchlib.registries import metrics

__all__ = ["Recall"]


@metrics.register("recall")
class Recall(Metric):
    """Share of real points inside the balls of samples: diversity; higher is better."""

    better = 1

    def score(self, samples: np.ndarray) -> float:
        _, in_fake = balls(self.reference, samples)
        return float(in_fake.any(1).mean())
