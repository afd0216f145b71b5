"""Algorithms: what one step of training is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from matchlib.errors import SettingError

__all__ = ["Algorithm", "Learner", "Turn"]


@dataclass(frozen=True)
class Learner:
    """A module that is trained, and how.

    Args:
        module: whose parameters that require a gradient are trained.
        rate: Adam's step size, > 0.
        betas: Adam's averaging constants, each in [0, 1).
        ema: decay of the exponential moving average of the weights per own step, in [0, 1).
    """

    module: nn.Module
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.999

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise SettingError(f"the step size must be positive, got {self.rate}")
        if not (0 <= self.ema < 1 and all(0 <= beta < 1 for beta in self.betas)):
            raise SettingError(f"ema and betas must lie in [0, 1), got ema={self.ema}, betas={self.betas}")


@dataclass(frozen=True)
class Turn:
    """One step: the name of the learner that steps, and its scalar loss with a graph."""

    learner: str
    loss: Tensor


class Algorithm(ABC):
    """A pure function from a step number to a turn; everything random is drawn from streams of that step.

    Attributes:
        learners: by name; a turn changes only its own learner's module.
    """

    learners: Mapping[str, Learner]

    @abstractmethod
    def turn(self, step: int) -> Turn:
        """Returns the turn of step ``step``, counted from 0."""
