"""Algorithms: what one step of training is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from matchlib.errors import SettingError

__all__ = ["Algorithm", "Learner"]


@dataclass(frozen=True)
class Learner:
    """A module that is trained, and how.

    Args:
        module: whose parameters that require a gradient are trained.
        rate: Adam's step size, > 0.
        betas: Adam's averaging constants, each in [0, 1).
        ema: decay of the exponential moving average of the weights per own step, in [0, 1).
        emas: decays of further averages.
    """

    module: nn.Module
    rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.999
    emas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise SettingError(f"the step size must be positive, got {self.rate}")
        if not all(0 <= x < 1 for x in (self.ema, *self.emas, *self.betas)):
            raise SettingError(f"ema, emas and betas must lie in [0, 1), got ema={self.ema}, emas={self.emas}, betas={self.betas}")


class Algorithm(ABC):
    """A pure function from a step number to a loss; everything random is drawn from streams of that step.

    Attributes:
        learners: by name; a turn changes only its own learner's module.
        size: samples in the batch of a turn.
        together: how many neighbours in a batch must not be parted into different shares.
    """

    learners: Mapping[str, Learner]
    size: int
    together: int = 1

    @abstractmethod
    def learner(self, step: int) -> str:
        """Returns the name of the learner that steps at ``step``, counted from 0."""

    @abstractmethod
    def loss(self, step: int, rows: int) -> Tensor:
        """Returns that learner's loss at ``step``, a scalar with a graph: the mean over ``rows`` samples of the batch.

        With fewer rows than ``size`` it is called within a ``matchlib.shares.Share``, which decides whose random numbers are drawn.
        """
