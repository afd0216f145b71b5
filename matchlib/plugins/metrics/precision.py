"""Precision in feature space.

References:
    Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.metric import Metric
from matchlib.plugins.metrics._manifold import balls
from matchlib.registries import metrics

__all__ = ["Precision"]


@metrics.register("precision")
class Precision(Metric):
    """Share of samples inside the balls of real points: fidelity; higher is better."""

    better = 1

    def score(self, samples: np.ndarray) -> float:
        in_real, _ = balls(self.reference, samples)
        return float(in_real.any(0).mean())
