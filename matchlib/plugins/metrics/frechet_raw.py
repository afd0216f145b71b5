"""Frechet distance of the raw values.

References:
    Dowson, Landau, "The Fréchet Distance between Multivariate Normal Distributions", 1982, https://doi.org/10.1016/0047-259X(82)90077-X
"""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.metric import Metric
from matchlib.plugins.metrics._frechet import frechet_distance
from matchlib.registries import metrics

__all__ = ["FrechetRaw"]


@metrics.register("frechet-raw")
class FrechetRaw(Metric):
    """Of Gaussians fitted to the values in model units; lower is better."""

    def score(self, samples: np.ndarray) -> float:
        return frechet_distance(samples, self.reference.train)
