"""Distances of Gaussians fitted to samples."""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.reference import Reference
from matchlib.registry import metrics

__all__ = ["frechet", "frechet_distance", "frechet_raw"]

Gaussian = tuple[np.ndarray, np.ndarray]


def _fit(x: np.ndarray) -> Gaussian:
    return x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def frechet_distance(x: Gaussian, y: Gaussian) -> float:
    """Returns |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x^(1/2) C_y C_x^(1/2))^(1/2)) of two Gaussians (mean, covariance).

    Of Gaussians fitted to n samples it is biased upwards by order 1/n: compare only at equal n.

    References:
        Dowson, Landau, "The Fréchet Distance between Multivariate Normal Distributions", 1982, https://doi.org/10.1016/0047-259X(82)90077-X
    """
    (mean_x, cov_x), (mean_y, cov_y) = x, y
    gap, root = mean_x - mean_y, _root(cov_x)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_y @ root), 0.0)).sum()
    return float(gap @ gap + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


def _train(reference: Reference) -> Gaussian:
    return _fit(reference.train)


def _train_features(reference: Reference) -> Gaussian:
    return _fit(reference.features(reference.train))


@metrics.register("frechet-raw")
def frechet_raw(reference: Reference, samples: np.ndarray) -> float:
    """Returns the distance of Gaussians fitted to the values in model units; lower is better."""
    return frechet_distance(_fit(samples), reference.once(_train))


@metrics.register("frechet")
def frechet(reference: Reference, samples: np.ndarray) -> float:
    """Returns the distance of Gaussians fitted to features, in units of one feature's variance; lower is better.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
        https://arxiv.org/abs/1706.08500
    """
    return frechet_distance(_fit(reference.features(samples)), reference.once(_train_features))
