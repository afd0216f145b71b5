"""Shares of a batch: random numbers that belong to samples, so that no result depends on how a batch is cut up.

A turn over a batch of ``total`` samples may be worked on in parts, one after another to save memory or by several processes. Within a
share, whatever is drawn for its rows is cut out of what the whole batch would have drawn from the same generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from matchlib.errors import IncompatibleError, SettingError

__all__ = ["Share", "place"]

_active: list[Share] = []


@dataclass(frozen=True)
class Share:
    """The rows ``begin`` to ``end`` of a batch of ``total`` samples.

    Draws whose first dimension is the number of rows belong to samples; all others are made for the whole batch, the same in every
    share.

    Args:
        begin, end, total: 0 <= begin < end <= total.

    Raises:
        SettingError: there are no such rows.
    """

    begin: int
    end: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= self.total:
            raise SettingError(f"a share needs 0 <= begin < end <= total, got {self.begin}, {self.end}, {self.total}")

    @classmethod
    def of(cls, total: int, rank: int = 0, size: int = 1) -> Share:
        """Returns the share of process ``rank`` of ``size``.

        Raises:
            SettingError: the batch cannot be cut into equal shares.
        """
        if total % size:
            raise SettingError(f"a batch of {total} samples cannot be shared equally by {size} processes; choose a multiple of {size}")
        own = total // size
        return cls(rank * own, (rank + 1) * own, total)

    @property
    def rows(self) -> int:
        """How many samples it has."""
        return self.end - self.begin

    def parts(self, most: int | None) -> Iterator[Share]:
        """Yields the share in parts of at most ``most`` samples, or whole for None."""
        step = most or self.rows
        for begin in range(self.begin, self.end, step):
            yield Share(begin, min(begin + step, self.end), self.total)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """A context in which what is drawn for ``rows`` samples is drawn for these rows; it costs nothing where they are all."""
        _active.append(self)
        try:
            with nullcontext() if self.rows == self.total else _Cutting(self):
                yield
        finally:
            _active.pop()


def place(rows: int) -> tuple[int, int]:
    """Returns (first row, size of the whole batch) for what is being computed for ``rows`` samples: (0, rows) outside of shares."""
    share = _active[-1] if _active else None
    return (share.begin, share.total) if share is not None and share.rows == rows else (0, rows)


class _Cutting(TorchFunctionMode):
    """Makes draws for the whole batch and keeps the share's rows."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is None:
            return function(*args, **kwargs)
        shape = kwargs.get("size", _shape(args)) if function in _CUT else (0,) if function is torch.randperm else None
        if shape is None:
            raise IncompatibleError(
                f"{getattr(function, '__name__', function)} draws random numbers in a way that cannot be cut into shares of a batch; "
                f"inside a turn use {', '.join(f'torch.{f.__name__}' for f in _CUT)}"
            )
        if not shape or shape[0] != self.share.rows:
            return function(*args, **kwargs)
        bounds = [x for x in args if isinstance(x, int)] if function is torch.randint else []
        whole: Tensor = function(*bounds, size=(self.share.total, *shape[1:]), **{k: v for k, v in kwargs.items() if k != "size"})
        return whole[self.share.begin : self.share.end]


_CUT = (torch.rand, torch.randn, torch.randint)


def _shape(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape among positional arguments: the last one, or all of them."""
    return tuple(args[-1]) if args and not isinstance(args[-1], int) else tuple(args)
