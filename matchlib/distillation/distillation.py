"""A distillation: teacher, student and critic, compared by one loss on one matching model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.algebra.convert import view
from matchlib.algebra.records import Batch, Condition, PathSample
from matchlib.algebra.times import TimeDistribution
from matchlib.distillation.loss import DistillationLoss
from matchlib.distillation.predictions import Predictions
from matchlib.distillation.student import Student
from matchlib.fields.teacher import Teacher
from matchlib.registry import objectives

__all__ = ["Distillation"]

JOINT = 1 << 14  # numbers in a batch of states up to which one larger evaluation is faster than two (benchmarks/step.py)


class Distillation:
    """The two losses of a distillation, for any teacher, student and loss.

    Args:
        teacher: frozen, with its matching model.
        student: the generator.
        critic: a field that predicts the teacher's own row.
        loss: compares them.
        times: density of t; None for the teacher's own.
        split: whether the student's gradient is made in two parts, the teacher's and the critic's, of which only one is held in memory at a
            time; None where that costs nothing, which is where the loss is separable. Else it costs one more evaluation of the critic.
        joint_forward: whether the critic's turn evaluates generated and real points as one batch; None for small states.

    Attributes:
        model: the teacher's, with the loss's space as objective and the times of the distillation.

    Raises:
        ConversionError: the teacher's prediction does not determine the loss's space.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Student | nn.Module,
        critic: nn.Module,
        loss: DistillationLoss,
        times: TimeDistribution | None = None,
        *,
        split: bool | None = None,
        joint_forward: bool | None = None,
    ) -> None:
        self.teacher, self.student, self.critic, self.loss = teacher, student, critic, loss
        self.split, self.joint_forward = split, joint_forward
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

    def generated(self, prompt: Batch, other: Batch, *, generator: torch.Generator) -> PathSample:
        """Returns points on the generated samples' paths.

        Args:
            prompt: as in ``generate``.
            other: independent of ``prompt``: its source joins the generated samples, unless the coupling keeps pairs.
        """
        data, source = self.generate(prompt, generator=generator)
        return self.joined(data, source, prompt, other, generator)

    def joined(self, data: Tensor, source: Tensor, prompt: Batch, other: Batch, generator: torch.Generator) -> PathSample:
        """Returns points on the paths of samples that were made already; the arguments are those of ``generate`` and ``generated``."""
        joined = source if self.model.coupling.paired else other.source
        return self.model.sample_path(Batch(data, joined, prompt.label), generator=generator)

    def contrasts(self, *points: PathSample) -> list[list[Predictions]]:
        """Compares critic, teacher and target at the points; for each point, head by head. Each field is evaluated once for all."""
        seen, sizes = _seen(points), [len(point.state) for point in points]
        critic, teacher = (field(*seen).split(sizes) for field in (self._read_critic, self._read_teacher))
        return [self._contrasts(*each) for each in zip(points, critic, teacher, map(self.model.target, points), strict=True)]

    def _contrasts(self, point: PathSample, critic: Tensor, teacher: Tensor, target: Tensor) -> list[Predictions]:
        three = (self.model.split(x) for x in (critic, teacher, target))
        parts = zip(*three, self.model.objective.heads, strict=True)
        return [Predictions(f, guess, c, head.weight(point.coefficients)) for f, guess, c, head in parts]

    def student_loss(self, prompt: Batch, other: Batch, *, generator: torch.Generator, progress: float = 1.0) -> Tensor:
        """Returns the student's loss, a scalar, whose gradient reaches the student through state and target.

        Its graph is that of the student alone: those of teacher and critic end at the generated data and are gone when this returns, so
        that their weights get no gradient and second derivatives do not exist.
        """
        made, source = self.generate(prompt, generator=generator)
        data = made.detach().requires_grad_()
        with torch.enable_grad():
            point = self.joined(data, source, prompt, other, generator)
            value, slope = self._slope(self.loss.at(progress), point, data)
        return _Linear.apply(made, value, slope)

    def _slope(self, loss: DistillationLoss, point: PathSample, data: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the student's loss and its gradient with respect to the data of the points."""

        def mean(critic: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            return torch.stack([loss.student_loss(x) for x in self._contrasts(point, critic, teacher, target)]).sum(0).mean()

        reached = _Reached(point, self.model.target(point))
        seen, target = reached.seen, reached.target
        split = loss.separable if self.split is None else self.split
        with torch.no_grad():  # a separable loss has the same slope in the teacher whatever the critic says
            guess = self._read_critic(*seen) if split and not loss.separable else None
        teacher = self._read_teacher(*seen)
        if split:
            reached.add(mean(teacher.detach() if guess is None else guess, teacher, target.detach()))
            teacher = teacher.detach()
        value = mean(self._read_critic(*seen), teacher, target)
        reached.add(value)
        return value.detach(), reached.slope(data)

    def critic_loss(
        self, real: Batch, prompt: Batch, *, generator: torch.Generator, progress: float = 1.0, samples: Batch | None = None
    ) -> Tensor:
        """Returns the critic's loss, a scalar; the student is run without a graph.

        Generated and real points share time, noise and, where it is independent of the data, source: what they have in common cancels
        where real points enter with the opposite sign, which is how RealUID extrapolates.

        Args:
            samples: generated data with the source and labels they were made from, in place of ``prompt``; None to generate them.
        """
        loss = self.loss.at(progress)
        with torch.no_grad():
            if samples is None:
                samples = Batch(*self.generate(prompt, generator=generator), prompt.label)
            assert samples.source is not None, "what the samples were made from"
            points = [self.joined(samples.data, samples.source, samples, real, generator)]
        if loss.uses_real:
            points.append(self.model.beside(points[0], real, generator=generator))
        made, *rest = self._compared(points)
        at_real: list[Predictions] | list[None] = rest[0] if rest else [None] * len(made)
        pairs = zip(made, at_real, strict=True)
        return torch.stack([loss.critic_loss(*pair) for pair in pairs]).sum(0).mean()

    def _compared(self, points: list[PathSample]) -> list[list[Predictions]]:
        small = points[0].state.numel() <= JOINT
        if small if self.joint_forward is None else self.joint_forward:
            return self.contrasts(*points)
        return [made for point in points for made in self.contrasts(point)]


def _seen(points: Sequence[PathSample]) -> tuple[Tensor, Tensor, Condition]:
    """What a field sees at the points, one batch after the other."""
    if len(points) == 1:
        return points[0].state, points[0].time, points[0].condition
    labels, sources = ([getattr(point.condition, name) for point in points] for name in ("label", "source"))
    return (
        torch.cat([point.state for point in points]),
        torch.cat([point.time for point in points]),
        Condition(None if labels[0] is None else torch.cat(labels), None if sources[0] is None else torch.cat(sources)),
    )


class _Reached:
    """What generated data reach on a path, cut off from them: a loss is differentiated part by part, and each part's graph is let go.

    Args:
        point: on the data's paths.
        target: at the point.

    Attributes:
        seen: what a field sees at the point.
        target: as given.
    """

    def __init__(self, point: PathSample, target: Tensor) -> None:
        state, time, condition = _seen([point])
        self._inside: list[Tensor] = []
        self._leaves: list[Tensor] = []
        source = None if condition.source is None else self._cut(condition.source)
        self.seen = self._cut(state), time, replace(condition, source=source)
        self.target = self._cut(target)
        self._slopes: list[Tensor] = []

    def _cut(self, x: Tensor) -> Tensor:
        if not x.requires_grad:
            return x
        self._inside.append(x)
        self._leaves.append(x.detach().requires_grad_())
        return self._leaves[-1]

    def add(self, value: Tensor) -> None:
        """Adds the gradient of a part of the loss."""
        if value.requires_grad:
            more = torch.autograd.grad(value, self._leaves, materialize_grads=True)
            self._slopes = [a + b for a, b in zip(self._slopes, more, strict=True)] if self._slopes else list(more)

    def slope(self, data: Tensor) -> Tensor:
        """Returns the gradient of all parts with respect to the data."""
        if not self._slopes:
            return torch.zeros_like(data)
        return torch.autograd.grad(self._inside, data, self._slopes, materialize_grads=True)[0]


class _Linear(torch.autograd.Function):
    """A loss whose value and gradient with respect to the generated data are known already."""

    @staticmethod
    def forward(ctx: Any, made: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0] * ctx.saved_tensors[0], None, None
