"""Fidelity, diversity and copying, from nearest neighbours."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances_argmin_min

from matchlib.evaluation.reference import Metric, Reference
from matchlib.registry import metrics

__all__ = ["NEIGHBOURS", "Copies", "Coverage", "Density", "NearestRatio", "Precision", "Recall", "balls", "to_training"]

NEIGHBOURS = 5


def _radii(x: np.ndarray) -> np.ndarray:
    """Distance of each point to its NEIGHBOURS-th nearest other.

    References:
        Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019, https://arxiv.org/abs/1904.06991
        Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
    """
    k = min(NEIGHBOURS, len(x) - 1)
    return np.partition(cdist(x, x), k, axis=1)[:, k]


def balls(reference: Reference, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two boolean tables ``(real, generated)``: generated point in real point's ball, and the reverse."""
    real, fake = reference.features(reference.subset()), reference.features(samples)
    distance = cdist(real, fake)
    return distance < _radii(real)[:, None], distance < _radii(fake)[None, :]


@metrics.register("precision")
class Precision(Metric):
    """Share of samples inside the balls of real points: fidelity; higher is better.

    References:
        Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
    """

    better = 1

    def score(self, samples: np.ndarray) -> float:
        in_real, _ = balls(self.reference, samples)
        return float(in_real.any(0).mean())


@metrics.register("recall")
class Recall(Metric):
    """Share of real points inside the balls of samples: diversity; higher is better.

    References:
        Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
    """

    better = 1

    def score(self, samples: np.ndarray) -> float:
        _, in_fake = balls(self.reference, samples)
        return float(in_fake.any(1).mean())


@metrics.register("density")
class Density(Metric):
    """Mean number of real balls that hold a sample, over the number of neighbours: fidelity; higher is better.

    References:
        Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
    """

    better = 1

    def score(self, samples: np.ndarray) -> float:
        in_real, _ = balls(self.reference, samples)
        return float(in_real.sum(0).mean() / NEIGHBOURS)


@metrics.register("coverage")
class Coverage(Metric):
    """Share of real balls that hold a sample: diversity; higher is better.

    References:
        Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
    """

    better = 1

    def score(self, samples: np.ndarray) -> float:
        in_real, _ = balls(self.reference, samples)
        return float(in_real.any(1).mean())


def to_training(reference: Reference, x: np.ndarray) -> np.ndarray:
    """Returns the Euclidean distance of each sample to the nearest training sample, ``(n, size) -> (n,)``, in model units."""
    return pairwise_distances_argmin_min(x, reference.train)[1]


@metrics.register("nearest-ratio")
class NearestRatio(Metric):
    """Median distance to the nearest training sample over that of the held-out data; near 0 for memorised samples, about 1 for new ones.

    References:
        Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020,
        https://arxiv.org/abs/2004.05675
    """

    better = 0

    def score(self, samples: np.ndarray) -> float:
        made, unseen = (np.median(to_training(self.reference, x)) for x in (samples, self.reference.held_out))
        return float(made / unseen)


QUANTILE = 0.05


@metrics.register("copies")
class Copies(Metric):
    """Share of samples as near to a training sample as the nearest 5% of held-out data are: .05 for new samples, 1 for memorised ones.

    References:
        Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020,
        https://arxiv.org/abs/2004.05675
    """

    better = 0

    def score(self, samples: np.ndarray) -> float:
        limit = np.quantile(to_training(self.reference, self.reference.held_out), QUANTILE)
        return float((to_training(self.reference, samples) <= limit).mean())
