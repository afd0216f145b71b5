"""Samplers: data from a source by many evaluations of a field."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from matchlib.algebra.convert import conversion, view
from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.objective import Objective
from matchlib.algebra.records import Condition
from matchlib.errors import SettingError
from matchlib.registry import objectives

__all__ = ["CountedField", "SampledField", "Sampler", "Samples", "Sampling"]


@dataclass(frozen=True)
class SampledField:
    """What a sampler needs to know of a field.

    Args:
        field: called as ``field(state, time, condition)``.
        model: what it predicts, and where.
        moments: of data and source.
        limits: least and largest number that data hold, in the field's units.
        on_evaluation: called before every evaluation; it may raise to interrupt the sampling.
    """

    field: nn.Module
    model: MatchingModel
    moments: Moments = Moments()
    limits: tuple[float, float] = (-math.inf, math.inf)
    on_evaluation: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class Samples:
    """Generated data, shape ``(b, *event)``, and the number of evaluations of the field that each cost."""

    data: Tensor
    nfe: int


class CountedField(nn.Module):
    """Counts the evaluations of a field; one whose answer takes several says so in ``evaluations``."""

    def __init__(self, field: nn.Module, on_evaluation: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.field, self.nfe, self.on_evaluation = field, 0, on_evaluation
        self.each = int(getattr(field, "evaluations", 1))

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.on_evaluation()
        self.nfe += self.each
        return self.field(state, time, condition)


class _RepeatedField(nn.Module):
    """Evaluates a field once, and repeats the answer until it is ``None`` again."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.answer: Tensor | None = None

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        if self.answer is None:
            self.answer = self.field(state, time, condition)
        return self.answer


class Sampling:
    """One batch on its way from source to data: what a step may use.

    Args:
        of: the field.
        predictions: what ``read`` returns.
        source: what the batch starts from, shape ``(b, *event)``.
        label: as in ``Batch``.
        limits: to which predicted data are clipped; None leaves them as they are.
    """

    def __init__(
        self,
        of: SampledField,
        predictions: tuple[Objective, ...],
        source: Tensor,
        label: Tensor | None,
        limits: tuple[float, float] | None,
        generator: torch.Generator,
    ) -> None:
        self.model, self.source, self.generator, self.limits = of.model, source, generator, limits
        self.condition = of.model.condition(source, label)
        self._field = _RepeatedField(of.field)
        self._views = [(wanted == _data(), view(self._field, of.model, wanted)) for wanted in predictions]

    @cached_property
    def _denoiser(self) -> nn.Module:
        return view(self._field, self.model, _data())

    def read(self, state: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        """Returns the predictions at a state and time, ``(b, *event), (b,)``, for one evaluation of the field."""
        self._field.answer = None
        return tuple(self._clipped(read(state, t, self.condition), is_data) for is_data, read in self._views)

    def denoise(self, state: Tensor, t: Tensor) -> Tensor:
        """Returns the predicted data at a state and time, for one evaluation of the field."""
        self._field.answer = None
        return self._clipped(self._denoiser(state, t, self.condition), True)

    def _clipped(self, prediction: Tensor, is_data: bool) -> Tensor:
        return prediction.clamp(*self.limits) if is_data and self.limits is not None else prediction


def _data() -> Objective:
    return objectives["data"]()


class Sampler(ABC):
    """Generates data from a source: a walk down a grid of times, one ``step`` at a time.

    Attributes:
        steps: number of steps, >= 1.
        clip_denoised: whether predicted data are clipped to the limits of the data.
        remainder: how much of what the source leaves open of the data is drawn at the start (``MatchingModel.start``).
        order: of convergence in distribution: halving the step divides the error of the samples' mean and variance by 2 to this power, or
            more; None where no number of steps is set.
    """

    steps: int
    clip_denoised: bool = False
    remainder: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise SettingError(f"{type(self).__name__}: steps must be at least 1, got {self.steps}")

    @property
    def order(self) -> float | None:
        return None

    @abstractmethod
    def reads(self, model: MatchingModel) -> tuple[Objective, ...]:
        """Returns the predictions that a step reads, in the order of ``Sampling.read``.

        Raises:
            IncompatibleError: the sampler does not suit the model.
        """

    @abstractmethod
    def step(self, sampling: Sampling, state: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Returns the state at ``s < t`` from that at ``t``.

        Args:
            sampling: reads predictions; has model, condition, source and generator.
            state: shape ``(b, *event)``.
            t, s: shape ``(b,)``.
        """

    def grid(self, model: MatchingModel, like: Tensor) -> Tensor:
        """Returns the times between which steps are made: ``steps + 1`` evenly spaced ones, from ``times.t_max`` to ``times.t_min``."""
        return torch.linspace(model.times.t_max, model.times.t_min, self.steps + 1, dtype=like.dtype, device=like.device)

    def denoises(self, model: MatchingModel) -> bool:
        """Whether the walk ends with the predicted data: where the grid stops short of t = 0."""
        return model.times.t_min > 0

    def check(self, model: MatchingModel) -> None:
        """Refuses a model whose field the sampler cannot use, before anything is trained.

        Raises:
            IncompatibleError: saying what is missing.
        """
        for wanted in self.reads(model):
            conversion(model, wanted).check_at(model.times.t_max, "teacher.times.t_max=0.999")
        if self.denoises(model):
            conversion(model, _data())

    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        """Returns samples.

        Args:
            of: the field.
            source: draws of the source, shape ``(b, *event)``.
            label: as in ``Batch``.

        Raises:
            ConversionError: the field does not determine what the sampler needs.
        """
        field = CountedField(of.field, of.on_evaluation)
        for _, state in self._walk(self.begin(replace(of, field=field), source, label, generator), of.moments):
            data = state
        return Samples(data, field.nfe)

    def trajectory(
        self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (time, state) from the start to the sample, which comes last, at time 0; arguments as for ``sample``."""
        yield from self._walk(self.begin(of, source, label, generator), of.moments)

    def begin(self, of: SampledField, source: Tensor, label: Tensor | None, generator: torch.Generator) -> Sampling:
        """Returns the batch at its start."""
        return Sampling(of, self.reads(of.model), source, label, of.limits if self.clip_denoised else None, generator)

    def start(self, sampling: Sampling, t: Tensor, moments: Moments) -> Tensor:
        """Returns the state at the first time ``t``, a number, given the source."""
        source = sampling.source
        t = t.expand(source.shape[:1])
        return sampling.model.start(source, t, moments, generator=sampling.generator, remainder=self.remainder)

    def _walk(self, sampling: Sampling, moments: Moments) -> Iterator[tuple[Tensor, Tensor]]:
        grid, size = self.grid(sampling.model, sampling.source), sampling.source.shape[:1]
        state = self.start(sampling, grid[0], moments)
        yield grid[0], state
        for now, then in pairwise(grid):
            state = self.step(sampling, state, now.expand(size), then.expand(size))
            yield then, state
        if self.denoises(sampling.model):
            yield grid.new_zeros(()), sampling.denoise(state, grid[-1].expand(size))
