"""The Frechet distance of two Gaussians.

References:
    Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", 2017,
    https://arxiv.org/abs/1706.08500
"""

from __future__ import annotations

import numpy as np

__all__ = ["frechet_distance"]


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Returns |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x^(1/2) C_y C_x^(1/2))^(1/2)) of samples ``(n, k)`` and ``(m, k)``.

    Biased upwards by order 1/n: compare only at equal n.
    """
    gap = x.mean(0) - y.mean(0)
    cov_x, cov_y = np.atleast_2d(np.cov(x, rowvar=False)), np.atleast_2d(np.cov(y, rowvar=False))
    root = _root(cov_x)
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_y @ root), 0.0)).sum()
    return float(gap @ gap + np.trace(cov_x) + np.trace(cov_y) - 2 * cross)
