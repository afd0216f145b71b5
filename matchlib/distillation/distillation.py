"""A distillation: teacher, student and critic, compared by one loss on one matching model."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from matchlib.algebra.convert import view
from matchlib.algebra.records import Batch, Point
from matchlib.algebra.times import Times
from matchlib.distillation.contrast import Contrast
from matchlib.distillation.loss import DistillationLoss
from matchlib.distillation.student import Student
from matchlib.distillation.teacher import Teacher
from matchlib.registries import objectives

__all__ = ["Distillation"]


class Distillation:
    """The two losses of a distillation, for any teacher, student and loss.

    Args:
        teacher: frozen, with its matching model.
        student: the generator.
        critic: a field that predicts the teacher's own row.
        loss: compares them.
        times: density of t; None for the teacher's own.

    Attributes:
        model: the teacher's, with the loss's space as objective and the times of the distillation.

    Raises:
        ConversionError: the teacher's prediction does not determine the loss's space.
    """

    def __init__(self, teacher: Teacher, student: Student, critic: nn.Module, loss: DistillationLoss, times: Times | None = None) -> None:
        self.teacher, self.student, self.critic, self.loss = teacher, student, critic, loss
        own = teacher.model
        space = own.objective if loss.space is None else objectives[loss.space]()
        self.model = replace(own, objective=space, times=times or own.times)
        self._read_teacher, self._read_critic = view(teacher, own, space), view(critic, own, space)

    def generate(self, prompt: Batch, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns (data, source): the student's samples and what they were made from.

        Args:
            prompt: gives the labels, the source where it is data, and the number of samples.
        """
        source = self.model.coupling.source(prompt, generator=generator)
        condition = self.model.condition(source, prompt.label)
        return self.student(source, condition, generator=generator), source

    def generated(self, prompt: Batch, other: Batch, *, generator: torch.Generator) -> Point:
        """Returns points on the generated samples' paths.

        Args:
            prompt: as in ``generate``.
            other: independent of ``prompt``: its source joins the generated samples, unless the coupling keeps pairs.
        """
        data, source = self.generate(prompt, generator=generator)
        joined = source if self.model.coupling.paired else other.source
        return self.model.point(Batch(data, joined, prompt.label), generator=generator)

    def contrasts(self, point: Point) -> list[Contrast]:
        """Compares critic, teacher and target at the points, head by head."""
        seen = (point.state, point.time, point.condition)
        three = (self._read_critic(*seen), self._read_teacher(*seen), self.model.target(point))
        critic, teacher, target = (self.model.split(x) for x in three)
        parts = zip(critic, teacher, target, self.model.objective.heads, strict=True)
        return [Contrast(f, guess, c, head.weight(point.coefficients)) for f, guess, c, head in parts]

    def student_loss(self, prompt: Batch, other: Batch, *, generator: torch.Generator, progress: float = 1.0) -> Tensor:
        """Returns the student's loss, a scalar; its gradient flows through state and target."""
        loss = self.loss.at(progress)
        point = self.generated(prompt, other, generator=generator)
        return torch.stack([loss.student_loss(contrast) for contrast in self.contrasts(point)]).sum(0).mean()

    def critic_loss(self, real: Batch, prompt: Batch, *, generator: torch.Generator, progress: float = 1.0) -> Tensor:
        """Returns the critic's loss, a scalar; the student is run without a graph."""
        loss = self.loss.at(progress)
        with torch.no_grad():
            generated = self.generated(prompt, real, generator=generator)
        made = self.contrasts(generated)
        at_real: list[Contrast] | list[None] = [None] * len(made)
        if loss.uses_real:
            at_real = self.contrasts(self.model.point(real, generator=generator))
        return torch.stack([loss.critic_loss(*pair) for pair in zip(made, at_real, strict=True)]).sum(0).mean()
