"""Distances of Gaussians fitted to samples."""

from __future__ import annotations

import torch
from torch import Tensor

from matchlib.evaluation.reference import PointSet, Reference
from matchlib.registry import metrics

__all__ = ["frechet", "frechet_distance", "frechet_raw"]

Gaussian = tuple[Tensor, Tensor]
ROWS = 4096  # points whose products are summed at once


def frechet_distance(x: Gaussian, y: Gaussian) -> float:
    """Returns |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x^(1/2) C_y C_x^(1/2))^(1/2)) of two Gaussians (mean, covariance).

    Of Gaussians fitted to n samples it is biased upwards by order 1/n: compare only at equal n.

    References:
        Dowson, Landau, "The Fréchet Distance between Multivariate Normal Distributions", 1982, https://doi.org/10.1016/0047-259X(82)90077-X
    """
    return _distance(x, (*y, _root(y[1])))


@metrics.register("frechet-raw")
def frechet_raw(reference: Reference, samples: PointSet) -> float:
    """Returns the distance of Gaussians fitted to the values in model units; lower is better."""
    return _distance_of(samples, reference.train, "values")


@metrics.register("frechet")
def frechet(reference: Reference, samples: PointSet) -> float:
    """Returns the distance of Gaussians fitted to features, in units of one feature's variance; lower is better.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
        https://arxiv.org/abs/1706.08500
    """
    return _distance_of(samples, reference.train, "features")


def _distance_of(samples: PointSet, train: PointSet, space: str) -> float:
    x, y = getattr(samples, space), getattr(train, space)
    if min(len(x), len(y)) < x.shape[1]:
        return _distance_of_few(samples, train, space)
    return _distance(_gaussian(samples, space), _with_root(train, space))


def _distance_of_few(x: PointSet, y: PointSet, space: str) -> float:
    """The same where covariances have not full rank: the trace of the root is the sum of the singular values of the centred products."""
    (mean_x, few), (mean_y, many) = sorted((_centred(points, space) for points in (x, y)), key=lambda pair: len(pair[1]))
    squares = torch.zeros(len(few), len(few), dtype=torch.float64, device=few.device)
    for part in x.work.over(many.split(ROWS), "products"):
        product = few @ part.mT
        squares.addmm_(product, product.mT)
    n, m = max(len(few) - 1, 1), max(len(many) - 1, 1)
    cross = torch.linalg.eigvalsh(squares).clamp(min=0).sqrt().sum() / (n * m) ** 0.5
    return float((mean_x - mean_y).square().sum() + few.square().sum() / n + many.square().sum() / m - 2 * cross)


def _centred(points: PointSet, space: str) -> Gaussian:
    """Mean, and points less the mean, in float64."""
    x = getattr(points, space).double()
    return x.mean(0), x - x.mean(0)


def _distance(x: Gaussian, y: tuple[Tensor, Tensor, Tensor]) -> float:
    (mean_x, cov_x), (mean_y, cov_y, root) = x, y
    cross = torch.linalg.eigvalsh(root @ cov_x @ root).clamp(min=0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def _gaussian(points: PointSet, space: str) -> Gaussian:
    """Mean and covariance in float64 of the values or features of points."""
    return points.once(("gaussian", space), lambda: _fit(points, getattr(points, space)))


def _fit(points: PointSet, x: Tensor) -> Gaussian:
    parts, n = x.split(ROWS), len(x)
    mean = torch.stack([part.double().sum(0) for part in parts]).sum(0) / n
    products = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in points.work.over(parts, "covariance"):
        centred = part.double() - mean
        products.addmm_(centred.mT, centred)
    return mean, products / max(n - 1, 1)


def _with_root(points: PointSet, space: str) -> tuple[Tensor, Tensor, Tensor]:
    gaussian = _gaussian(points, space)
    return *gaussian, points.once(("root", space), lambda: _root(gaussian[1]))
