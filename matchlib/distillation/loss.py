"""Distillation losses: what the student minimises and what the critic minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from matchlib.distillation.predictions import Predictions
from matchlib.errors import SettingError

__all__ = ["BilinearLoss", "DistillationLoss", "Quadratic"]


class DistillationLoss(ABC):
    """A loss over predictions; it cannot know which family it serves.

    Attributes:
        space: name of the prediction in which teacher, critic and target are compared; None means the teacher's own.
        linked: settings of which the first, given alone, decides the others; ``config.yaml`` holds the values of all.
    """

    space: str | None
    linked: ClassVar[tuple[str, ...]] = ()

    @property
    def caution(self) -> str | None:
        """What a user should know about unusual settings, in one sentence; None if nothing."""
        return None

    def at(self, progress: float) -> DistillationLoss:
        """Returns the loss for a step, before which a share ``progress`` in [0, 1] of the training is done; itself without a schedule."""
        return self

    @property
    @abstractmethod
    def uses_real(self) -> bool:
        """Whether the critic's loss has a term on real points."""

    @property
    def separable(self) -> bool:
        """Whether the student's loss is a part without the teacher plus a part without the critic: each has its own slope."""
        return False

    @abstractmethod
    def student_loss(self, generated: Predictions) -> Tensor:
        """Returns what the student minimises, shape ``(b,)``."""

    @abstractmethod
    def critic_loss(self, generated: Predictions, real: Predictions | None) -> Tensor:
        """Returns what the critic minimises, shape ``(b,)``; ``real`` is None unless ``uses_real``."""


@dataclass(frozen=True)
class Quadratic:
    """Coefficients of one quadratic: of |d|^2, of the teacher and of the target."""

    square: float
    teacher: float
    target: float

    def __call__(self, predictions: Predictions) -> Tensor:
        return predictions.quadratic(self.square, self.teacher, self.target)

    def __bool__(self) -> bool:
        return any((self.square, self.teacher, self.target))


class BilinearLoss(DistillationLoss):
    """Losses made of quadratics of predictions: the student's on generated points, the critic's on generated and real points.

    As it stands, the teacher's excess loss over that of the critic, without real points; a loss overrides what it changes.

    Attributes:
        weight_power: exponent of the per-sample weight of the student's loss, >= 0.
    """

    weight_power: float

    def __post_init__(self) -> None:
        if not self.weight_power >= 0:
            raise SettingError(f"{type(self).__name__}: weight_power must be at least 0, got {self.weight_power}")

    @property
    def generated(self) -> Quadratic:
        """The critic's quadratic on generated points."""
        return Quadratic(1.0, 1.0, 1.0)

    @property
    def real(self) -> Quadratic:
        """The critic's quadratic on real points; all zero if it needs none."""
        return Quadratic(0.0, 0.0, 0.0)

    @property
    def student(self) -> Quadratic:
        """The student's quadratic; that of the critic unless a loss says otherwise."""
        return self.generated

    @property
    def uses_real(self) -> bool:
        return bool(self.real)

    @property
    def separable(self) -> bool:
        return self.student.square == self.student.teacher  # the coefficient of <critic, teacher> is twice their difference

    def student_loss(self, generated: Predictions) -> Tensor:
        loss = self.student(generated)
        return loss * generated.sample_weight(self.weight_power) if self.weight_power else loss

    def critic_loss(self, generated: Predictions, real: Predictions | None) -> Tensor:
        loss = -self.generated(generated)
        return loss - self.real(real) if real is not None and self.real else loss
