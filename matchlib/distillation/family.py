"""Families: named matching models with the settings that suit them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution
from matchlib.fields.sampler import Sampler

__all__ = ["HIGH_NOISE", "Defaults", "Family"]

HIGH_NOISE = TimeDistribution(log_sigma=(0.5, 1.0))
"""Times for distilling data that the source does not determine: mostly more noise than signal.

Near the data the field of a teacher that knows them well points at single samples; a student that is compared there before it is spread
out falls on a few of them and stays (docs/research/correction.md, section 3).
"""


@dataclass(frozen=True)
class Defaults:
    """What a family recommends; every entry can be overruled in a configuration.

    Args:
        sampler: for the teacher.
        t_start: time at which a student reads its source as a state.
        times: density of t for distillation, cut to the model's interval; None keeps the model's.
        student_lr, critic_lr: step sizes.
    """

    sampler: Sampler
    t_start: float = 1.0
    times: TimeDistribution | None = None
    student_lr: float = 1e-3
    critic_lr: float = 2e-3

    def times_of(self, model: MatchingModel) -> TimeDistribution:
        """Returns the density of t at which a student of the model's teacher is compared."""
        return model.times if self.times is None else self.times.within(model.times)


class Family(ABC):
    """A function of settings to a matching model."""

    @abstractmethod
    def model(self, *, paired: bool) -> MatchingModel:
        """Returns the family's model for data that come with a source (``paired``) or without."""

    def network(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the spec of the teacher's network: that of the settings, unless the family has its own."""
        return spec

    @abstractmethod
    def defaults(self, *, paired: bool) -> Defaults:
        """Returns what the family recommends for sampling and distilling."""
