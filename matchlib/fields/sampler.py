"""Samplers: generators that evaluate a field many times."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.records import Condition
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import SettingError

__all__ = ["CachedField", "ClippedField", "CountedField", "SampledField", "Sampler", "Samples", "check_steps", "times_down"]


@dataclass(frozen=True)
class SampledField:
    """What a sampler needs to know of a field.

    Args:
        field: called as ``field(state, time, condition)``.
        model: what it predicts, and where.
        moments: of data and source.
        limits: least and largest number that data hold, in the field's units.
    """

    field: nn.Module
    model: MatchingModel
    moments: Moments = Moments()
    limits: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Samples:
    """Generated data, shape ``(b, *event)``, and the number of evaluations of the field that each cost."""

    data: Tensor
    nfe: int


class CountedField(nn.Module):
    """Counts the evaluations of a field; one whose answer takes several says so in ``evaluations``."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.nfe = field, 0
        self.each = int(getattr(field, "evaluations", 1))

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.nfe += self.each
        return self.field(state, time, condition)


class Sampler(ABC):
    """Generates data from a source by evaluating a field many times.

    Attributes:
        order: of convergence in law: halving the step divides the error of the samples' mean and variance by 2 to this power, or more;
            None where no number of steps is set.
    """

    @property
    def order(self) -> float | None:
        return None

    @abstractmethod
    def check(self, model: MatchingModel) -> None:
        """Refuses a model whose field it cannot sample; asked before anything is trained.

        Raises:
            IncompatibleError: saying what is missing.
        """

    @abstractmethod
    def sample(self, of: SampledField, source: Tensor, label: Tensor | None, *, generator: torch.Generator) -> Samples:
        """Returns samples.

        Args:
            of: the field.
            source: draws of the source, shape ``(b, *event)``.
            label: as in ``Batch``.

        Raises:
            ConversionError: the field does not determine what the sampler needs.
        """


class ClippedField(nn.Module):
    """A field that predicts data, its answers clipped to ``limits``; None leaves them as they are."""

    def __init__(self, field: nn.Module, limits: tuple[float, float] | None) -> None:
        super().__init__()
        self.field, self.limits = field, limits

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        data: Tensor = self.field(state, time, condition)
        return data if self.limits is None else data.clamp(*self.limits)


def check_steps(sampler: str, steps: int) -> None:
    """Refuses a number of steps below one."""
    if steps < 1:
        raise SettingError(f"{sampler}: steps must be at least 1, got {steps}")


def times_down(times: TimeDistribution, steps: int, like: Tensor) -> Tensor:
    """Returns ``steps + 1`` evenly spaced times from ``times.t_max`` down to ``times.t_min``, on the device of ``like``."""
    return torch.linspace(times.t_max, times.t_min, steps + 1, dtype=like.dtype, device=like.device)


class CachedField(nn.Module):
    """Answers as ``field`` does, and repeats its answer until told to forget it.

    Args:
        field: asked once at each point.
    """

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.answer: Tensor | None = None

    def forget(self) -> None:
        """The next question is at another point."""
        self.answer = None

    def forward(self, *seen: object) -> Tensor:
        if self.answer is None:
            self.answer = self.field(*seen)
        return self.answer
