"""Which rows span another."""

from __future__ import annotations

import torch
from torch import Tensor

from matchlib.algebra.rows import Coefficients, Row
from matchlib.algebra.span import smallest_span, solve, stack_rows

T = torch.linspace(0.05, 0.95, 64, dtype=torch.float64)
STATE = Row(source=1.0)


def path(t: Tensor) -> Coefficients:
    return Coefficients(t, 1 - t, t, 0.0, lambda: (-1.0, 1.0, 0.0))


def test_smallest_span_takes_one_row_where_one_is_enough() -> None:
    assert smallest_span(lambda at: (STATE, Row(1.0), at.state), lambda at: 3.0 * Row(1.0), path, T) == (1,)


def test_smallest_span_is_none_for_a_row_outside() -> None:
    assert smallest_span(lambda at: (at.state, at.velocity), lambda at: Row(noise=1.0), path, T) is None


def test_smallest_span_steps_over_no_zero_between_two_times() -> None:
    """(1, t - 1/3, 0) and (1, 0, 0) are parallel at t = 1/3 alone, which is none of the times."""
    rows = lambda at: (Row(1.0, at.time - 1 / 3), Row(1.0))  # noqa: E731
    assert smallest_span(rows, lambda at: Row(source=1.0), path, T) is None
    assert smallest_span(rows, lambda at: Row(source=1.0), path, T[T > 0.4]) == (0, 1)


def test_solve_finds_the_coefficients_of_a_combination() -> None:
    rows = torch.randn(5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for size in (1, 2, 3):
        k = torch.arange(1.0, size + 1, dtype=torch.float64)
        found = solve(rows[:, :size], torch.einsum("n,bni->bi", k, rows[:, :size]))
        assert torch.allclose(torch.stack(found, -1), k.expand(5, -1))


def test_stack_rows_has_one_row_a_column() -> None:
    assert stack_rows((Row(1.0), Row(noise=T)), T).shape == (64, 2, 3)
