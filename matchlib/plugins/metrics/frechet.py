"""Distances of Gaussians fitted to samples."""

from __future__ import annotations

import numpy as np

from matchlib.evaluation.reference import Metric
from matchlib.registry import metrics

__all__ = ["Frechet", "FrechetRaw", "frechet_distance"]


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x^(1/2) C_y C_x^(1/2))^(1/2)) of samples ``(n, k)`` and ``(m, k)``.

    Biased upwards by order 1/n: compare only at equal n.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
        https://arxiv.org/abs/1706.08500
    """
    gap = x.mean(0) - y.mean(0)
    cov_x, cov_y = np.atleast_2d(np.cov(x, rowvar=False)), np.atleast_2d(np.cov(y, rowvar=False))
    root = _root(cov_x)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_y @ root), 0.0)).sum()
    return float(gap @ gap + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)


@metrics.register("frechet")
class Frechet(Metric):
    """Of Gaussians fitted to features; in units of one feature's variance, lower is better.

    References:
        Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, https://arxiv.org/abs/1706.08500
    """

    def score(self, samples: np.ndarray) -> float:
        features = self.reference.features
        return frechet_distance(features(samples), features(self.reference.train))


@metrics.register("frechet-raw")
class FrechetRaw(Metric):
    """Of Gaussians fitted to the values in model units; lower is better.

    References:
        Dowson, Landau, "The Fréchet Distance between Multivariate Normal Distributions", 1982, https://doi.org/10.1016/0047-259X(82)90077-X
    """

    def score(self, samples: np.ndarray) -> float:
        return frechet_distance(samples, self.reference.train)
