"""Frechet distance in the feature space of the data set.

References:
    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, https://arxiv.org/abs/1706.08500
"""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.metric import Metric
from matchlib.plugins.metrics._frechet import frechet_distance
from matchlib.registries import metrics

__all__ = ["Frechet"]


@metrics.register("frechet")
class Frechet(Metric):
    """Of Gaussians fitted to features; in units of one feature's variance, lower is better."""

    def score(self, samples: np.ndarray) -> float:
        features = self.reference.features
        return frechet_distance(features(samples), features(self.reference.train))
