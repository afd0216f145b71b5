"""Distances between two sets of samples as distributions, in model units."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from matchlib.evaluation.reference import PointSet, Reference
from matchlib.registry import metrics

__all__ = ["kid", "mmd", "sliced_wasserstein", "w2"]

DIRECTIONS = 256
BANDWIDTHS = (0.5, 1.0, 2.0)  # of the kernels, relative to the median distance
ROWS, COLUMNS = 512, 32  # of a table of distances or projections that is in memory at once
STEPS = 1 << 12  # of two quantile functions that are compared at once


@metrics.register("w2", applies=lambda reference: reference.train.values.shape[1] <= 3)
def w2(reference: Reference, samples: PointSet) -> float:
    """Returns the Wasserstein-2 distance of the subset to as many training points; lower is better. For events of up to three numbers.

    References:
        Flamary et al., "POT: Python Optimal Transport", 2021, https://jmlr.org/papers/v22/20-451.html (network simplex)
    """
    import ot

    x, y = (points.values.double().cpu().numpy() for points in (reference.some(samples), reference.real))
    return float(ot.emd2([], [], ot.dist(x, y)) ** 0.5)


@metrics.register("sliced-wasserstein")
def sliced_wasserstein(reference: Reference, samples: PointSet) -> float:
    """Returns the root mean square over 256 fixed directions of the 1-D Wasserstein-2 distance; lower is better.

    References:
        Rabin, Peyré, Delon, Bernot, "Wasserstein Barycenter and Its Application to Texture Mixing", 2011,
        https://doi.org/10.1007/978-3-642-24785-9_37
    """
    x, y = _projected(samples), _projected(reference.train)
    ends = torch.cat([torch.arange(1, len(z) + 1, dtype=torch.float64, device=z.device) / len(z) for z in (x, y)]).sort().values
    steps = ends.diff(prepend=ends.new_zeros(1))  # between ends both quantile functions are constant
    middle = ends - steps / 2
    i, j = ((middle * len(z)).long().clamp(max=len(z) - 1) for z in (x, y))
    chunks = zip(i.split(STEPS), j.split(STEPS), steps.split(STEPS), strict=True)
    total = sum((step @ (x[a].double() - y[b]).square()).mean() for a, b, step in chunks)
    return float(total**0.5)


def _projected(points: PointSet) -> Tensor:
    """The points on each direction in order, ``(n, DIRECTIONS)``, in the precision of the points."""

    def compute() -> Tensor:
        values = points.values
        directions = torch.as_tensor(np.random.RandomState(0).normal(size=(values.shape[1], DIRECTIONS)))  # as POT draws them
        directions = (directions / directions.norm(dim=0)).to(values.device)
        projected = values.new_empty(len(values), DIRECTIONS)
        for part, rows in zip(points.work.over(values.split(ROWS), "projections"), projected.split(ROWS), strict=True):
            rows.copy_(part.double() @ directions)
        for some in projected.split(COLUMNS, dim=1):
            some.copy_(some.sort(0).values)
        return projected

    return points.once("projected", compute)


def _has_pairs(reference: Reference) -> bool:
    return reference.subset > 1


@metrics.register("mmd", applies=_has_pairs)
def mmd(reference: Reference, samples: PointSet) -> float:
    """Returns the squared discrepancy by Gaussian kernels at 1/2, 1 and 2 times the median distance; may be negative, lower is better.

    Of the subset of samples and as many training points; the median is that of points that differ.

    References:
        Gretton et al., "A Kernel Two-Sample Test", 2012, https://jmlr.org/papers/v13/gretton12a.html (lemma 6)
    """
    fake, real = reference.some(samples), reference.real
    median = real.cached("median", lambda: _median(torch.nn.functional.pdist(real.values.double()).square()))
    within = real.cached("kernel", lambda: _mean_kernel(real, real, median))
    return float(_mean_kernel(fake, fake, median) + within - 2 * _mean_kernel(fake, real, median))


def _median(x: Tensor) -> Tensor:
    """The median of the positive numbers, 1 where there are none; ``quantile`` takes at most 2^24."""
    x = x[x > 0]
    if not len(x):
        return x.new_ones(())
    return (x.kthvalue((len(x) + 1) // 2).values + x.kthvalue(len(x) // 2 + 1).values) / 2


def _mean_kernel(x: PointSet, y: PointSet, median: Tensor) -> Tensor:
    """Mean kernel of all pairs, or of all pairs of different points where both sets are one."""
    total = torch.zeros((), dtype=torch.float64, device=x.values.device)
    for part in x.work.over(x.values.split(ROWS), "kernels"):
        squares = torch.cdist(part.double(), y.values.double()).square()
        total += sum(torch.exp(-squares / (2 * median * h**2)).sum() for h in BANDWIDTHS) / len(BANDWIDTHS)
    own = len(x) if x is y else 0  # the kernel of a point with itself is 1
    return (total - own) / (len(x) * len(y) - own)


@metrics.register("kid", applies=_has_pairs)
def kid(reference: Reference, samples: PointSet) -> float:
    """Returns the squared discrepancy of features by the kernel (x.y / k + 1)^3; unbiased, may be negative, lower is better.

    Of the subset of samples and as many training points.

    References:
        Bińkowski et al., "Demystifying MMD GANs", 2018, https://arxiv.org/abs/1801.01401
    """
    fake, real = reference.some(samples), reference.real
    within = real.cached("cubic-kernel", lambda: _cubic_kernel(real, real))
    return float(_cubic_kernel(fake, fake) + within - 2 * _cubic_kernel(fake, real))


def _cubic_kernel(x: PointSet, y: PointSet) -> Tensor:
    """Mean kernel of all pairs, or of all pairs of different points where both sets are one."""
    size = x.features.shape[1]
    total = torch.zeros((), dtype=torch.float64, device=x.features.device)
    for part in x.work.over(x.features.split(ROWS), "kernels"):
        total += (part @ y.features.mT / size + 1).pow(3).sum()
    own = (x.features.square().sum(1) / size + 1).pow(3).sum() if x is y else 0.0
    return (total - own) / (len(x) * len(y) - (len(x) if x is y else 0))
