"""Random numbers as a function of (seed, stream, step) that belong to samples, however a batch is cut up.

References:
    Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2023, https://arxiv.org/abs/2312.02696 (per-step
    seeding in the accompanying code)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from matchlib.algebra.times import stratified_uniform
from matchlib.errors import IncompatibleError, SettingError

__all__ = ["BatchSlice", "Streams", "may_draw", "seeded", "slice_position"]

MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every input bit reaches every output bit."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@dataclass(frozen=True)
class Streams:
    """Named random streams of one run.

    Args:
        seed: of the run.
        device: where the random numbers are drawn.
    """

    seed: int
    device: torch.device

    def __call__(self, stream: str, step: int = 0) -> torch.Generator:
        """Returns a fresh generator for one step of one stream."""
        key = _mix(_mix(_mix(self.seed & MASK) ^ zlib.crc32(stream.encode())) ^ step)
        return torch.Generator(self.device).manual_seed(key >> 1)


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """A context in which draws without a generator, such as dropout's, continue from the seed of one; it leaves no trace."""
    device = generator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(generator.initial_seed())
        if device.type == "cuda":
            torch.cuda.manual_seed(generator.initial_seed())
        yield


def may_draw(module: nn.Module) -> bool:
    """Returns whether a module may draw without a generator: dropout does, and code that is neither torch's nor ours may."""
    for part in module.modules():
        if any(kind.__module__.split(".")[0] not in KNOWN for kind in type(part).__mro__):
            return True
        rates = [getattr(part, name, 0.0) for name in ("p", "dropout")]
        if isinstance(part, nn.RReLU) or any(isinstance(rate, float) and rate > 0 for rate in rates):
            return True
    return False


KNOWN = {"abc", "builtins", "matchlib", "torch", "typing"}  # packages whose other modules draw only with a generator
_active: list[BatchSlice] = []


@dataclass(frozen=True)
class BatchSlice:
    """The rows ``begin`` to ``end`` of a batch of ``total`` samples.

    Draws whose first dimension is the number of rows belong to samples; all others are made for the whole batch, the same in every
    slice.

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
            raise SettingError(f"a slice needs 0 <= begin < end <= total, got {self.begin}, {self.end}, {self.total}")

    @classmethod
    def of(cls, total: int, rank: int = 0, size: int = 1) -> BatchSlice:
        """Returns the slice of process ``rank`` of ``size``.

        Raises:
            SettingError: the batch cannot be cut into equal slices.
        """
        if total % size:
            raise SettingError(f"a batch of {total} samples cannot be shared equally by {size} processes; choose a multiple of {size}")
        rows = total // size
        return cls(rank * rows, (rank + 1) * rows, total)

    @property
    def rows(self) -> int:
        """How many samples it has."""
        return self.end - self.begin

    def parts(self, most: int | None) -> Iterator[BatchSlice]:
        """Yields the slice in parts of at most ``most`` samples, or whole for None."""
        step = most or self.rows
        for begin in range(self.begin, self.end, step):
            yield BatchSlice(begin, min(begin + step, self.end), self.total)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """A context in which what is drawn for ``rows`` samples is drawn for these rows; it costs nothing where they are all."""
        _active.append(self)
        try:
            with nullcontext() if self.rows == self.total else _SlicedDraws(self):
                yield
        finally:
            _active.pop()


def slice_position(rows: int) -> tuple[int, int]:
    """Returns (first row, size of the whole batch) of a computation for ``rows`` samples: (0, rows) outside of slices."""
    active = _active[-1] if _active else None
    return (active.begin, active.total) if active is not None and active.rows == rows else (0, rows)


_CUT = (torch.rand, torch.randn, torch.randint, stratified_uniform)


class _SlicedDraws(TorchFunctionMode):
    """Makes draws for the whole batch and keeps the slice's rows."""

    def __init__(self, rows: BatchSlice) -> None:
        super().__init__()
        self.slice = rows

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is None:
            return function(*args, **kwargs)
        shape = kwargs.get("size", _shape(args)) if function in _CUT else (0,) if function is torch.randperm else None
        if shape is None:
            raise IncompatibleError(
                f"{getattr(function, '__name__', function)} draws random numbers in a way that cannot be cut into slices of a batch; "
                f"inside a step use torch's {', '.join(f.__name__ for f in _CUT[:3])}"
            )
        if not shape or shape[0] != self.slice.rows:
            return function(*args, **kwargs)
        bounds = [x for x in args if isinstance(x, int)] if function is torch.randint else []
        whole: Tensor = function(*bounds, size=(self.slice.total, *shape[1:]), **{k: v for k, v in kwargs.items() if k != "size"})
        return whole[self.slice.begin : self.slice.end]


def _shape(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The shape among positional arguments: the last one, or all of them."""
    return tuple(args[-1]) if args and not isinstance(args[-1], int) else tuple(args)
