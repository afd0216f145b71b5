"""Sliced Wasserstein-2 distance.

References:
    Rabin, Peyré, Delon, Bernot, "Wasserstein Barycenter and Its Application to Texture Mixing", 2011,
    https://doi.org/10.1007/978-3-642-24785-9_37
"""

from __future__ import annotations

import numpy as np
import ot

from matchlib.evaluation.metric import Metric
from matchlib.registries import metrics

__all__ = ["SlicedWasserstein"]


@metrics.register("sliced-wasserstein")
class SlicedWasserstein(Metric):
    """Root mean square over 256 fixed directions of the 1-D Wasserstein-2 distance; in model units, lower is better."""

    def score(self, samples: np.ndarray) -> float:
        return float(ot.sliced_wasserstein_distance(samples, self.reference.train, n_projections=256, seed=0))
