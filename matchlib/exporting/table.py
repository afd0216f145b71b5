"""Students as tables of numbers around a network.

At fixed times everything that a student does around its network is linear, with a number for each latent: what the network is given, and
the sample, are combinations of the source, of fresh noise and of the network's own predictions. The numbers are read off by running the
student on the unit vectors, in double precision, so that an export needs no formula of an interpolant, an objective or a transition.
What a student does to its source first (``student.start``) stands before the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from matchlib.algebra.records import Condition
from matchlib.distillation.start import GaussianStart
from matchlib.distillation.student import Student
from matchlib.errors import IncompatibleError

__all__ = ["SOURCE", "Call", "Combination", "Label", "Table", "Time", "core_of", "tabulate"]

SOURCE = "source"
NEGLIGIBLE = 1e-12  # share of the largest number of a combination below which a number is rounding


@dataclass(frozen=True)
class Combination:
    """A linear combination of named tensors ``(b, *event)``: ``source``, ``noise_1``, ..., ``prediction_1``, ..."""

    weights: Mapping[str, float]


@dataclass(frozen=True)
class Time:
    """A time, the same for every sample.

    Args:
        dtype: integer type in which the network is given it, for an embedding of levels, say; None for that of the source.
    """

    value: float
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Label:
    """The labels, as they were given."""


@dataclass(frozen=True)
class Call:
    """One evaluation of the network; each argument is a Combination, a Time, a Label, a Condition of these, or a constant.

    Args:
        args, kwargs: what it is called with.
        predictions: names of what it answers, one for each head.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    predictions: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A student without its network.

    Args:
        calls: of the network, in their order.
        sample: the data, in model units.
        draws: for each of the student's draws, in their order, the name of its noise; None for one that changes nothing.
    """

    calls: tuple[Call, ...]
    sample: Combination
    draws: tuple[str | None, ...] = ()

    @property
    def noises(self) -> tuple[str, ...]:
        """Names of the noise that is needed besides the source."""
        return tuple(name for name in self.draws if name is not None)


def core_of(student: Student) -> tuple[nn.Module, str]:
    """Returns the module that holds a student's network, and the name of the attribute.

    Raises:
        IncompatibleError: the student has none, or several.
    """
    parts = [(part, str(part.core)) for part in student.modules() if isinstance(getattr(type(part), "core", None), str)]
    if not parts and isinstance(getattr(student, "field", None), nn.Module):
        return student, "field"
    if len(parts) != 1:
        raise IncompatibleError(
            f"{type(student).__name__} has {len(parts)} fields, and an export needs a student around one network; "
            "write the student with one attribute 'field'"
        )
    return parts[0]


def tabulate(
    student: Student,
    part: nn.Module,
    name: str,
    *,
    condition: Callable[[Tensor, Tensor | None], Condition],
    labelled: bool,
    heads: int = 1,
    answer: Callable[[Tensor], Any] = lambda x: x,
) -> Table:
    """Returns the table of a student around the network ``part.name``.

    Args:
        condition: what the student's model makes of source and label.
        labelled: whether the student is given labels.
        heads: number of predictions of the network.
        answer: wraps a prediction as the network does.

    Raises:
        IncompatibleError: the student draws otherwise than by ``torch.randn``, or is not linear around the network.
    """

    def run(latents: Tensor) -> _Run:
        once = _Run(_Columns(latents), heads, answer)
        once.execute(student, part, name, condition, labelled)
        return once

    size = len(run(torch.zeros(1, 0)).columns.names)
    mixed = 3 * torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, again = run(torch.eye(size, dtype=torch.float64)), run(mixed)
    for weights, values in zip(found.vectors, again.vectors, strict=True):
        if not torch.allclose(mixed @ weights, values, rtol=1e-6, atol=1e-9 * float(values.abs().max())):
            raise found.refusal(student, "its steps are not combinations of source, noise and predictions")
    return _with_used_draws(tuple(found.calls), found.sample, found.draws)


@dataclass
class _Columns:
    """Latents, in the order in which they are asked for.

    Args:
        latents: a column each, ``(rows, number)``; without columns every latent is zero, so that they can be counted.
    """

    latents: Tensor
    names: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return len(self.latents)

    def new(self, name: str) -> Tensor:
        """Returns the latent of the next name, shape ``(size, 1)``."""
        number = len(self.names)
        self.names = (*self.names, name)
        if not self.latents.shape[1]:
            return torch.zeros(self.size, 1, dtype=torch.float64)
        return self.latents[:, number : number + 1].clone()


@dataclass
class _Run:
    """One run of a student, and what it said: calls and sample as they are on unit vectors, and the numbers of each combination."""

    columns: _Columns
    heads: int
    answer: Callable[[Tensor], Any]
    calls: list[Call] = field(default_factory=list)
    sample: Combination = field(default_factory=lambda: Combination({}))
    vectors: list[Tensor] = field(default_factory=list)
    draws: tuple[str, ...] = ()
    label: Tensor | None = None

    @torch.no_grad()
    def execute(self, student: Student, part: nn.Module, name: str, condition: Callable[..., Condition], labelled: bool) -> None:
        """Runs the student on the latents."""
        source = self.columns.new(SOURCE)
        self.label = torch.zeros(self.columns.size, dtype=torch.long) if labelled else None
        try:
            with _replaced(part, name, _Recorder(self)), _from_plain_source(student), _Draws(self):
                sample = student(source, condition(source, self.label), generator=torch.Generator())
            self.sample = self._combination(sample)
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise self.refusal(student, f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}") from error

    def draw(self, shape: tuple[int, ...]) -> Tensor:
        """Returns the noise of the next draw."""
        if tuple(shape) != (self.columns.size, 1):
            raise IncompatibleError(f"the student draws noise of shape {tuple(shape)[1:]}, and an export takes noise in the state's shape")
        self.draws = (*self.draws, f"noise_{len(self.draws) + 1}")
        return self.columns.new(self.draws[-1])

    def predict(self, args: Any, kwargs: Any) -> Any:
        """Returns the network's answer to a call, which is noted down."""
        number = len(self.calls) + 1
        names = tuple(f"prediction_{number}" + (f"_{i + 1}" if self.heads > 1 else "") for i in range(self.heads))
        described = {key: self.described(x) for key, x in kwargs.items()}
        self.calls.append(Call(tuple(map(self.described, args)), described, names))
        parts = [self.columns.new(name) for name in names]
        return self.answer(parts[0] if self.heads == 1 else torch.stack(parts, 1))

    def described(self, x: Any) -> Any:
        """Returns an argument as the table has it."""
        if isinstance(x, Condition):
            return Condition(self.described(x.label), self.described(x.source))
        if not isinstance(x, Tensor):
            return x
        return Label() if x is self.label else self._numbers(x)

    def _numbers(self, x: Tensor) -> Combination | Time:
        if x.shape == (self.columns.size, 1):
            return self._combination(x)
        if x.shape == (self.columns.size,) and bool((x == x[0]).all()):
            return Time(float(x[0]), None if x.is_floating_point() else x.dtype)
        raise IncompatibleError(f"an argument of the network has shape {tuple(x.shape)[1:]}, and neither the state's nor that of a time")

    def _combination(self, x: Tensor) -> Combination:
        """Returns a tensor as a combination of the latents that there are by now."""
        column = x.reshape(self.columns.size).double()
        self.vectors.append(column)
        largest = float(column.abs().max())
        pairs = zip(self.columns.names, column.tolist(), strict=False)
        return Combination({name: weight for name, weight in pairs if abs(weight) > NEGLIGIBLE * largest})

    @staticmethod
    def refusal(student: Student, why: str) -> IncompatibleError:
        return IncompatibleError(f"{type(student).__name__} is not linear around its network, so it cannot be exported ({why})")


class _Recorder(nn.Module):
    """Stands for the network."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self.run = run

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run.predict(args, kwargs)


class _Draws(TorchFunctionMode):
    """Answers draws with the latents of a run."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is None:
            return function(*args, **kwargs)
        if function is not torch.randn:
            raise IncompatibleError(
                f"the student draws with {getattr(function, '__name__', function)}, and an export takes normal noise as an input: "
                "draw with torch.randn(shape, generator=generator)"
            )
        shape = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
        return self.run.draw(tuple(shape))


@contextmanager
def _replaced(part: nn.Module, name: str, other: nn.Module) -> Iterator[None]:
    """A context in which an attribute of a module is another module."""
    own = getattr(part, name)
    delattr(part, name)
    setattr(part, name, other)
    try:
        yield
    finally:
        delattr(part, name)
        setattr(part, name, own)


@contextmanager
def _from_plain_source(student: Student) -> Iterator[None]:
    """A context in which a student takes its source as it is: what is done to it first is no matter of the table."""
    with _replaced(student, "start", nn.Identity()) if isinstance(getattr(student, "start", None), GaussianStart) else nullcontext():
        yield


def _with_used_draws(calls: tuple[Call, ...], sample: Combination, draws: tuple[str, ...]) -> Table:
    """Returns the table whose noises are those that change something, numbered anew."""
    used = {name for combination in _combinations((calls, sample)) for name in combination.weights}
    kept = [name for name in draws if name in used]
    numbered = {name: f"noise_{i + 1}" for i, name in enumerate(kept)}

    def renamed(x: Any) -> Any:
        if isinstance(x, Combination):
            return Combination({numbered.get(name, name): weight for name, weight in x.weights.items()})
        if isinstance(x, Condition):
            return Condition(renamed(x.label), renamed(x.source))
        return x

    every = tuple(
        Call(tuple(map(renamed, call.args)), {key: renamed(x) for key, x in call.kwargs.items()}, call.predictions) for call in calls
    )
    return Table(every, renamed(sample), tuple(numbered.get(name) for name in draws))


def _combinations(x: Any) -> Iterator[Combination]:
    """Yields every combination in a structure."""
    if isinstance(x, Combination):
        yield x
    elif isinstance(x, Condition):
        yield from _combinations((x.label, x.source))
    elif isinstance(x, Call):
        yield from _combinations((*x.args, *x.kwargs.values()))
    elif isinstance(x, tuple):
        for part in x:
            yield from _combinations(part)
