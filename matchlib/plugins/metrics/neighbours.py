"""Fidelity, diversity and copying, from nearest neighbours.

A ball around each point reaches to its ``NEIGHBOURS``-th nearest other; points that are equal, as where rare classes are repeated, count
once. Real points are as many training points as there are samples; both
are limited to the reference's subset.

References:
    Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models", 2019, https://arxiv.org/abs/1904.06991
    Naeem, Oh, Uh, Choi, Yoo, "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, https://arxiv.org/abs/2002.09797
    Meehan, Chaudhuri, Dasgupta, "A Non-Parametric Test to Detect Data-Copying in Generative Models", 2020,
    https://arxiv.org/abs/2004.05675 (nearest-ratio and copies)
"""

from __future__ import annotations

import torch
from torch import Tensor

from matchlib.evaluation.reference import PointSet, Reference
from matchlib.registry import metrics

__all__ = ["NEIGHBOURS", "QUANTILE", "copies", "coverage", "density", "nearest_ratio", "precision", "recall"]

NEIGHBOURS = 5
QUANTILE = 0.05
ROWS, COLUMNS = 512, 4096  # of a table of distances that is in memory at once


@metrics.register("precision", better=1)
def precision(reference: Reference, samples: PointSet) -> float:
    """Returns the share of samples inside the balls of real points: fidelity."""
    return float((_real_balls(reference, samples)[1] > 0).double().mean())


@metrics.register("recall", better=1)
def recall(reference: Reference, samples: PointSet) -> float:
    """Returns the share of real points inside the balls of samples: diversity."""
    fake, real = reference.some(samples), reference.real
    return float((_in_balls(fake, real)[1] > 0).double().mean())


@metrics.register("density", better=1)
def density(reference: Reference, samples: PointSet) -> float:
    """Returns the mean number of real balls that hold a sample, over the number of neighbours: fidelity."""
    return float(_real_balls(reference, samples)[1].double().mean() / NEIGHBOURS)


@metrics.register("coverage", better=1)
def coverage(reference: Reference, samples: PointSet) -> float:
    """Returns the share of real balls that hold a sample: diversity."""
    return float((_real_balls(reference, samples)[0] > 0).double().mean())


@metrics.register("nearest-ratio", better=0)
def nearest_ratio(reference: Reference, samples: PointSet) -> float:
    """Returns the median distance to the nearest training point over that of held-out data: 0 if memorised, about 1 if new.

    It is 1, too, where both are 0, as for data that take few values.
    """
    near, unseen = (_to_training(reference, points).quantile(0.5) for points in (samples, reference.held_out))
    return 1.0 if near == unseen else float(near / unseen.clamp_min(1e-9))


@metrics.register("copies", better=0)
def copies(reference: Reference, samples: PointSet) -> float:
    """Returns the share of samples as near to a training point as the nearest 5% of held-out data: .05 if new, 1 if memorised.

    Samples exactly as far as the farthest of these count in part, so that it is .05 for new data that take few values.
    """
    near, unseen = _to_training(reference, samples), _to_training(reference, reference.held_out)
    limit = unseen.quantile(QUANTILE)
    tied = (unseen == limit).double().mean()
    part = ((QUANTILE - (unseen < limit).double().mean()) / tied).clamp(0, 1) if tied > 0 else 1.0
    return float((near < limit).double().mean() + part * (near == limit).double().mean())


def _places(points: PointSet) -> Tensor:
    """The different ones among the points, in features."""
    return points.once("places", lambda: points.features.unique(dim=0))


def _radii(points: PointSet) -> Tensor:
    """Distance of each place to its NEIGHBOURS-th nearest other, in features."""

    def compute() -> Tensor:
        x = _places(points)
        k = min(NEIGHBOURS, len(x) - 1)
        rows = points.work.over(x.split(ROWS), "neighbours")
        return torch.cat([_distances(part, x).kthvalue(k + 1, 1).values for part in rows])

    return points.cached("radii", compute)


def _in_balls(centres: PointSet, points: PointSet) -> tuple[Tensor, Tensor]:
    """Returns how many points each ball holds, and in how many balls each point lies."""
    radii = _radii(centres)
    held, inside = [], torch.zeros(len(points), dtype=torch.long, device=radii.device)
    for x, radius in zip(points.work.over(_places(centres).split(ROWS), "neighbours"), radii.split(ROWS), strict=True):
        within = _distances(x, points.features) < radius[:, None]
        held.append(within.sum(1))
        inside += within.sum(0)
    return torch.cat(held), inside


def _real_balls(reference: Reference, samples: PointSet) -> tuple[Tensor, Tensor]:
    """Returns how many samples each real ball holds, and in how many each sample lies."""
    return samples.once("real balls", lambda: _in_balls(reference.real, reference.some(samples)))


def _distances(x: Tensor, y: Tensor) -> Tensor:
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")  # products would cancel between points that are near


def _to_training(reference: Reference, points: PointSet) -> Tensor:
    """Euclidean distance of each point of the subset to the nearest training point, in model units."""
    return points.cached(f"nearest-{reference.subset}", lambda: _nearest(reference.some(points), reference.train))


def _nearest(points: PointSet, others: PointSet) -> Tensor:
    """The nearest is found by products, which is fast, and its distance is computed from the difference, which is exact."""
    centre = others.once("centre", lambda: others.values.mean(0))
    best = torch.full((len(points),), torch.inf, dtype=centre.dtype, device=centre.device)
    index = torch.zeros(len(points), dtype=torch.long, device=centre.device)
    for i, part in enumerate(points.work.over(others.values.split(COLUMNS), "nearest training points")):
        y = part - centre
        norms = y.square().sum(1)
        for x, least_yet, where_yet in zip(points.values.split(ROWS), best.split(ROWS), index.split(ROWS), strict=True):
            least, where = torch.addmm(norms, x.to(centre.dtype) - centre, y.mT, alpha=-2).min(1)
            where_yet.copy_(torch.where(least < least_yet, where + i * COLUMNS, where_yet))
            least_yet.copy_(torch.minimum(least_yet, least))
    parts = zip(points.values.split(ROWS), index.split(ROWS), strict=True)
    return torch.cat([(x.double() - others.values[nearest].double()).norm(dim=1) for x, nearest in parts])
