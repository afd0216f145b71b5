"""Where a student starts from normal noise: at a time at which the data have already left their mark."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from matchlib.algebra.interpolant import Interpolant
from matchlib.algebra.model import MatchingModel
from matchlib.data.dataset import random_rows

__all__ = ["GaussianStart", "axes_of", "principal_axes", "starts_from_noise"]

SEEN = 1024  # training samples that the axes of the data are measured on
AXES, NUMBERS = 128, 1 << 22  # axes, and numbers in all of them, that a start keeps at most
NULL = 1e-12  # of the largest variance, below which one counts as none


def principal_axes(data: Tensor, most: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the mean of data ``(d,)``, their first principal axes ``(k, d)`` and the variances along all of them.

    The variances are positive and in falling order.

    Args:
        data: ``(n, *event)``, not all alike, of which up to 1,024 are measured.
        most: axes at most; None for all.
    """
    x = random_rows(data, SEEN).flatten(1).double()
    mean = x.mean(0)
    x = x - mean
    wide = x.shape[1] >= len(x)
    found, vectors = torch.linalg.eigh((x @ x.mT if wide else x.mT @ x) / max(len(x) - 1, 1))
    variances, vectors = found.flip(0), vectors.flip(1)
    variances = variances[variances > NULL * variances[0]]
    axes = vectors[:, : len(variances)][:, :most].mT
    return mean, nn.functional.normalize(axes @ x, dim=1) if wide else axes, variances


def starts_from_noise(model: MatchingModel) -> bool:
    """Returns whether a state at the start is ``b z`` with fresh normal noise z, which a ``GaussianStart`` may replace."""
    return model.gaussian and not model.interpolant.noisy


def axes_of(shape: tuple[int, ...]) -> int:
    """Returns how many principal axes a start keeps for events of a shape."""
    size = math.prod(shape)
    return max(1, min(AXES, size, NUMBERS // size))


class GaussianStart(nn.Module):
    """A map of standard normal noise z such that ``b s(z)`` has mean and covariance of noisy data at a time: ``a m`` and ``a^2 C + b^2``.

    It is where the deterministic flow from noise to data leads if the data are Gaussian with mean m and covariance C:
    ``b s(z) = a m + (a^2 C + b^2)^(1/2) z``. C is known along the first principal axes, and zero elsewhere. At a time at which noise hides
    all but a few structures of the data, this is nearly how their states are distributed, while plain noise is not.

    Args:
        shape: of an event.
        axes: number of principal axes.

    References:
        Wang, Vastola, "The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its Applications", 2024,
        https://arxiv.org/abs/2412.09726
    """

    def __init__(self, shape: tuple[int, ...], axes: int) -> None:
        super().__init__()
        size = math.prod(shape)
        self.mean: Tensor
        self.axes: Tensor
        self.gains: Tensor
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("axes", torch.zeros(axes, size))
        self.register_buffer("gains", torch.zeros(axes))

    def fit(self, data: Tensor, interpolant: Interpolant, t_start: float) -> None:
        """Takes mean and axes from data of the model's units, ``(n, *event)``, for the time ``t_start``."""
        at = interpolant.coefficients(torch.tensor([t_start], dtype=torch.float64))
        signal = float(at.a) / math.sqrt(float(at.variance))
        mean, axes, variances = principal_axes(data, len(self.axes))
        k = len(axes)
        self.mean.copy_(signal * mean)
        self.axes[:k] = axes.to(self.axes)
        self.gains[:k] = ((1 + signal**2 * variances[:k]).sqrt() - 1).to(self.gains)

    def forward(self, source: Tensor) -> Tensor:
        """Returns s(z), shape ``(b, *event)``."""
        z = source.flatten(1)
        along = (z @ self.axes.mT) * self.gains
        return (z + self.mean + along @ self.axes).reshape(source.shape)
