"""Density in feature space.

References:
    Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
"""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.metric import Metric
from matchlib.plugins.metrics._manifold import NEIGHBOURS, balls
from matchlib.registries import metrics

__all__ = ["Density"]


@metrics.register("density")
class Density(Metric):
    """Mean number of real balls that hold a sample, over the number of neighbours: fidelity; higher is better."""

    better = 1

    def score(self, samples: np.ndarray) -> float:
        in_real, _ = balls(self.reference, samples)
        return float(in_real.sum(0).mean() / NEIGHBOURS)
