"""Gaussians fitted to points, the distance between them, and how sure it is."""

from __future__ import annotations

import torch
from torch import Tensor

from matchlib.evaluation.reference import PointSet

__all__ = ["Gaussian", "distance_of_points", "fitted", "frechet_distance", "standard_error"]

Gaussian = tuple[Tensor, Tensor]  # mean (k,) and covariance (k, k), float64
ROWS = 1024  # points whose products are summed at once
NULL = 1e-10  # of the largest eigenvalue, below which one counts as zero


def frechet_distance(x: Gaussian, y: Gaussian) -> float:
    """Returns |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x^(1/2) C_y C_x^(1/2))^(1/2)) of two Gaussians (mean, covariance).

    Of Gaussians fitted to n samples it is biased upwards by order 1/n: compare only at equal n.

    References:
        Dowson, Landau, "The Fréchet Distance between Multivariate Normal Distributions", 1982, https://doi.org/10.1016/0047-259X(82)90077-X
    """
    return _distance(x, y, _root(y[1]))


def fitted(points: PointSet, space: str) -> Gaussian:
    """Returns mean and covariance of the ``values`` or ``features`` of points."""
    mean = points.cached(f"mean-{space}", lambda: _mean(getattr(points, space)))
    return mean, points.cached(f"covariance-{space}", lambda: _covariance(points, getattr(points, space), mean))


def distance_of_points(x: PointSet, y: PointSet, space: str) -> float:
    """Returns the distance of the Gaussians fitted to the ``values`` or ``features`` of two sets of points."""
    if min(len(x), len(y)) < getattr(x, space).shape[1]:
        return _distance_of_few(x, y, space)
    return _distance(fitted(x, space), fitted(y, space), root(y, space))


def standard_error(x: PointSet, y: PointSet, space: str) -> float:
    """Returns the standard deviation of ``distance_of_points`` over draws of both sets, to first order in 1/n.

    A point moves the distance by its influence 2 d.(x - m) + (x - m)'(I - T)(x - m), less its mean, where d is the difference of the means
    and T the linear map that transports one Gaussian onto the other; the variance is that of the influences over n, of both sets.

    Raises:
        ValueError: there are fewer points than dimensions.
    """
    if min(len(x), len(y)) < getattr(x, space).shape[1]:
        raise ValueError("the distance of so few points has no such error")
    return (_influence(x, y, space) / len(x) + _influence(y, x, space) / len(y)) ** 0.5


def root(points: PointSet, space: str) -> Tensor:
    """Returns the symmetric root of the covariance of points."""
    return points.cached(f"root-{space}", lambda: _root(fitted(points, space)[1]))


def _influence(points: PointSet, others: PointSet, space: str) -> float:
    """The variance of the influence of a point on the distance to others."""
    (mean, covariance), (other_mean, _), r = fitted(points, space), fitted(others, space), root(others, space)
    transport = r @ _root(r @ covariance @ r, inverse=True) @ r
    quadratic = torch.eye(len(mean), dtype=mean.dtype, device=mean.device) - transport
    total, squares, x = 0.0, 0.0, getattr(points, space)
    for part in points.work.over(x.split(ROWS), "intervals"):
        centred = part.double() - mean
        influence = 2 * centred @ (mean - other_mean) + (centred @ quadratic * centred).sum(1)
        total, squares = total + float(influence.sum()), squares + float(influence.square().sum())
    return max(squares / len(x) - (total / len(x)) ** 2, 0.0)


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


def _distance(x: Gaussian, y: Gaussian, root_of_y: Tensor) -> float:
    (mean_x, cov_x), (mean_y, cov_y) = x, y
    cross = torch.linalg.eigvalsh(root_of_y @ cov_x @ root_of_y).clamp(min=0).sqrt().sum()
    return float((mean_x - mean_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * cross)


def _root(matrix: Tensor, *, inverse: bool = False) -> Tensor:
    """The symmetric root, or its inverse on what is not null."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp(min=0).sqrt()
    if inverse:
        values = torch.where(values > NULL**0.5 * values.max(), 1 / values, 0.0)
    return (vectors * values) @ vectors.mT


def _mean(x: Tensor) -> Tensor:
    return torch.stack([part.double().sum(0) for part in x.split(ROWS)]).sum(0) / len(x)


def _covariance(points: PointSet, x: Tensor, mean: Tensor) -> Tensor:
    products = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64, device=x.device)
    for part in points.work.over(x.split(ROWS), "covariance"):
        centred = part.double() - mean
        products.addmm_(centred.mT, centred)
    return products / max(len(x) - 1, 1)
