"""Frozen tensor records that one batch passes through: Batch -> Pair -> PathSample."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from matchlib.algebra.rows import Coefficients

__all__ = ["Batch", "Condition", "Pair", "PathSample", "drop_labels"]


def drop_labels(label: Tensor, where: Tensor) -> Tensor:
    """Returns labels with those of some samples made missing: class -1, or NaN for labels that are no classes.

    Args:
        label: integer classes ``(b,)``, or ``(b, *)``.
        where: booleans, shape ``(b,)``.
    """
    nothing = math.nan if label.is_floating_point() else -1
    return label.masked_fill(where.reshape(-1, *(1,) * (label.ndim - 1)), nothing)


@dataclass(frozen=True)
class Batch:
    """What a data set yields.

    Args:
        data: shape ``(b, *event)``.
        source: draws of an empirical source, shape ``(b, *event)``, in the data set's own pairing; None if the source is not data.
        label: integer classes ``(b,)``, or any tensor ``(b, *)`` a network can read; None without conditions.
    """

    data: Tensor
    source: Tensor | None = None
    label: Tensor | None = None


@dataclass(frozen=True)
class Pair:
    """What a coupling makes: data and source drawn jointly, and the label that belongs to the data."""

    data: Tensor
    source: Tensor
    label: Tensor | None = None


@dataclass(frozen=True)
class Condition:
    """What a field sees besides the state and the time.

    Args:
        label: as in ``Batch``; None means that no sample has one. A single sample's is missing where it is -1, or NaN.
        source: shape ``(b, *event)`` if the model's field sees the source, else None.
    """

    label: Tensor | None = None
    source: Tensor | None = None


@dataclass(frozen=True)
class PathSample:
    """What an interpolant makes: a state at a time, and the latents it was made from.

    Args:
        coefficients: of the interpolant at ``time``.
        state: shape ``(b, *event)``.
        noise: shape ``(b, *event)``; None where the interpolant uses none.
        condition: what the field may see here.
    """

    coefficients: Coefficients
    state: Tensor
    data: Tensor
    source: Tensor
    noise: Tensor | None
    condition: Condition

    @property
    def time(self) -> Tensor:
        """Shape ``(b,)``, in [0, 1]."""
        return self.coefficients.time
