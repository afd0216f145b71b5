"""Tasks: what one step of training is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from matchlib.errors import SettingError
from matchlib.training.random import Streams

__all__ = ["Learner", "Task"]


@dataclass(frozen=True)
class Learner:
    """A module that is trained, and how.

    Args:
        module: whose parameters that require a gradient are trained.
        lr: Adam's step size, > 0.
        betas: Adam's averaging constants, each in [0, 1).
        ema: decay of the exponential moving average of the weights per step of this learner, in [0, 1).
        extra_ema_decays: decays of further averages.
    """

    module: nn.Module
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.999
    extra_ema_decays: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise SettingError(f"lr must be positive, got {self.lr}")
        if len(set(self.extra_ema_decays)) < len(self.extra_ema_decays):
            raise SettingError(f"extra_ema_decays must differ from each other, got {self.extra_ema_decays}")
        if not all(0 <= x < 1 for x in (self.ema, *self.extra_ema_decays, *self.betas)):
            raise SettingError(
                f"ema, extra_ema_decays and betas must lie in [0, 1), got ema={self.ema}, extra_ema_decays={self.extra_ema_decays}, "
                f"betas={self.betas}"
            )


class Task(ABC):
    """What each step of a training minimises, as a pure function of the step's number; a task may have any number of learners.

    Attributes:
        learners: by name; a step changes only one learner's module.
        streams: of the run; everything random is drawn from streams of the step.
        batch_size: samples in the batch of a step.
        block_size: how many neighbours in a batch must not be parted into different slices.
        cycle: steps after which the order of learners repeats.
        frozen: modules that are evaluated in a step and never learn.
    """

    learners: Mapping[str, Learner]
    streams: Streams
    batch_size: int
    block_size: int = 1
    cycle: int = 1
    frozen: Sequence[nn.Module] = ()

    @abstractmethod
    def learner(self, step: int) -> str:
        """Returns the name of the learner that steps at ``step``, counted from 0."""

    @abstractmethod
    def loss(self, learner: str, rows: int, step: int) -> Tensor:
        """Returns a learner's loss at ``step``, a scalar with a graph: the mean over ``rows`` samples of the batch.

        With fewer rows than ``batch_size`` it is called within a ``matchlib.training.random.BatchSlice``, which decides whose random
        numbers are drawn.
        """
