"""Which rows span another on a whole interval, and with which coefficients.

The coefficients are a 3 x 3 solve in float64 by triple products, without a branch or a synchronisation. One or two rows are completed to a
basis by directions orthogonal to them, so that the solve is a projection onto their span.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from matchlib.algebra.rows import Coefficients, Row

__all__ = ["smallest_span", "solve", "stack_rows"]

VOLUME = 1e-16  # squared, normalised volume below which rows count as dependent
SUSPECT = 1e-2  # a local minimum above this is too far from zero to hide one between two probes
RESIDUAL = 1e-8  # relative distance from the span above which a row counts as outside

RowsAt = Callable[[Coefficients], Sequence[Row]]


def stack_rows(rows: Sequence[Row], t: Tensor) -> Tensor:
    """Returns ``n`` rows at times ``(b,)`` as one float64 tensor of shape ``(b, n, 3)``."""
    return torch.stack([row.stack(t) for row in rows], 1)


def solve(rows: Tensor, wanted: Tensor) -> list[Tensor]:
    """Solves sum_i k_i rows_i = wanted by triple products: ``(b, n, 3), (b, 3) -> n x (b,)``."""
    first, second, third = _complete(rows)
    normals = torch.linalg.cross(second, third), torch.linalg.cross(third, first), torch.linalg.cross(first, second)
    volume = (first * normals[0]).sum(-1)
    return [(wanted * normal).sum(-1) / volume for normal in normals[: rows.shape[1]]]


def smallest_span(
    rows: RowsAt, wanted: Callable[[Coefficients], Row], coefficients: Callable[[Tensor], Coefficients], t: Tensor
) -> tuple[int, ...] | None:
    """Returns which rows span the wanted one at every time, or None.

    Among the smallest sets it is the one that is best conditioned.

    Args:
        rows: gives the rows to choose from.
        wanted: gives the row to span.
        coefficients: of an interpolant.
        t: increasing float64 times over the interval, shape ``(b,)``.
    """
    at = coefficients(t)
    stacked, goal = stack_rows(rows(at), t), stack_rows((wanted(at),), t)[:, 0]

    def volumes(chosen: tuple[int, ...], t: Tensor) -> np.ndarray:
        return _volume(stack_rows(rows(coefficients(t)), t)[:, chosen]).numpy()

    for size in (1, 2, 3):
        spanning = [chosen for chosen in combinations(range(stacked.shape[1]), size) if _spans(stacked[:, chosen], goal)]
        least = {chosen: _least(lambda t, chosen=chosen: volumes(chosen, t), t) for chosen in spanning}  # type: ignore[misc]
        best = max(least, key=least.__getitem__, default=None)
        if best is not None and least[best] > VOLUME:
            return best
    return None


def _least(volumes: Callable[[Tensor], np.ndarray], t: Tensor) -> float:
    """Returns the least value over the interval; local minima are refined, so that no zero is stepped over."""
    values = volumes(t)
    lowest = float(values.min())
    inner = np.flatnonzero((values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:]) & (values[1:-1] < SUSPECT)) + 1
    for i in inner:
        low, high = t[i - 1], t[i + 1]
        for _ in range(6):  # each round narrows the bracket by 16
            fine = torch.linspace(float(low), float(high), 33, dtype=torch.float64)
            here = volumes(fine)
            j = int(here.argmin())
            low, high = fine[max(j - 1, 0)], fine[min(j + 1, 32)]
            lowest = min(lowest, float(here[j]))
    return lowest


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _volume(rows: Tensor) -> Tensor:
    """Returns the squared volume spanned by unit rows, ``(b, n, 3) -> (b,)``: 1 if orthogonal, 0 if dependent."""
    first, second, third = _complete(_unit(rows))
    normal = torch.linalg.cross(first, second)
    return normal.square().sum(-1) if rows.shape[1] < 3 else (normal * third).sum(-1).square()


def _complete(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Completes one or two rows to a basis by directions orthogonal to them."""
    first = rows[:, 0]
    if rows.shape[1] == 1:
        axis = torch.eye(3, dtype=rows.dtype, device=rows.device)[first.abs().argmin(-1)]
        second = axis - (axis * first).sum(-1, keepdim=True) / first.square().sum(-1, keepdim=True) * first
    else:
        second = rows[:, 1]
    third = rows[:, 2] if rows.shape[1] == 3 else torch.linalg.cross(first, second)
    return first, second, third


def _spans(rows: Tensor, wanted: Tensor) -> bool:
    """Returns whether ``wanted`` is a combination of ``rows`` at every time."""
    if not torch.isfinite(rows).all():
        return False
    unit = _unit(rows)
    combined = sum((k[:, None] * unit[:, i] for i, k in enumerate(solve(unit, wanted))), start=torch.zeros_like(wanted))
    return bool(((combined - wanted).norm(dim=-1) <= RESIDUAL * wanted.norm(dim=-1)).all())
