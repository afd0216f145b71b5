"""A distillation: teacher, student and critic, compared by one loss on one matching model.

References:
    "Universal Inverse Distillation for Matching Models with Real-Data Supervision (No GANs)", 2025, https://arxiv.org/abs/2509.22459
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from matchlib.algebra.convert import view
from matchlib.algebra.records import Batch, Condition, PathSample
from matchlib.algebra.times import TimeDistribution
from matchlib.distillation.loss import DistillationLoss
from matchlib.distillation.predictions import Predictions
from matchlib.distillation.student import Student
from matchlib.fields.teacher import Teacher
from matchlib.registry import objectives

__all__ = ["Distillation"]

JOINT = 1 << 14  # numbers in a batch of states up to which one larger evaluation is faster than two (benchmarks/speed/step.py)


class Distillation:
    """The two losses of a distillation, for any teacher, student and loss.

    Both take ``prompt``, which says what is generated (labels, the source where it is data, the number of samples), and ``real``, data
    independent of it, of the same size. Only the source of ``real`` is read where its data are not needed: it joins the generated
    samples, unless the coupling keeps pairs.

    Args:
        teacher: frozen, with its matching model.
        student: the generator.
        critic: a field that predicts the teacher's own row.
        loss: compares them.
        times: density of t; None for the teacher's own.
        two_pass: whether the student's loss keeps the graph of one network in memory at a time; None where that costs no evaluation: the
            loss is separable.
        joint_forward: whether the critic's loss evaluates generated and real points as one batch; None for small states.

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
        two_pass: bool | None = None,
        joint_forward: bool | None = None,
    ) -> None:
        self.teacher, self.student, self.critic, self.loss = teacher, student, critic, loss
        self.two_pass, self.joint_forward = two_pass, joint_forward
        space = teacher.model.objective if loss.space is None else objectives[loss.space]()
        self.model = replace(teacher.model, objective=space, times=times or teacher.model.times)
        self._read_teacher, self._read_critic = (view(field, teacher.model, space) for field in (teacher, critic))

    def student_loss(self, *, prompt: Batch, real: Batch, generator: torch.Generator, progress: float = 1.0) -> Tensor:
        """Returns the student's loss, a scalar, whose gradient reaches the student through state and target.

        The gradient with respect to the samples is made here, while the critic is frozen: blocks that are computed again in a backward
        pass must find it as it was. Second derivatives do not exist.

        Args:
            prompt, real: as for the class.
            progress: share of the training that is done, in [0, 1].
        """
        loss, samples = self.loss.at(progress), self.generate(prompt, generator=generator)
        two_pass = loss.separable if self.two_pass is None else self.two_pass
        data = samples.data.detach().requires_grad_()
        with torch.enable_grad():
            point = self.sample_path(replace(samples, data=data), real=real, generator=generator)
            value, slope = (self._in_two_passes if two_pass else self._in_one_pass)(loss, point, data)
        known: Tensor = _Known.apply(samples.data, value, slope)
        return known

    def critic_loss(
        self, *, prompt: Batch, real: Batch, generator: torch.Generator, progress: float = 1.0, samples: Batch | None = None
    ) -> Tensor:
        """Returns the critic's loss, a scalar; the student is run without a graph.

        Generated and real points share time, noise and, where it is independent of the data, source: what they have in common cancels
        where real points enter with the opposite sign, which is how RealUID extrapolates.

        Args:
            prompt, real, progress: as for ``student_loss``.
            samples: an answer of ``generate`` in place of what ``prompt`` asks for.
        """
        loss = self.loss.at(progress)
        with torch.no_grad():
            samples = samples or self.generate(prompt, generator=generator)
            point = self.sample_path(samples, real=real, generator=generator)
        if not loss.uses_real:
            return _mean(loss.critic_loss(x, None) for x in self.predictions(point)[0])
        at_generated, at_real = self.predictions(point, self.model.sample_path(real, generator=generator, like=point))
        return _mean(map(loss.critic_loss, at_generated, at_real))

    def _in_one_pass(self, loss: DistillationLoss, point: PathSample, data: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the student's loss at a point and its gradient with respect to the data, with all graphs in memory."""
        with _frozen(self.critic):
            (predictions,) = self.predictions(point)
            value = _mean(map(loss.student_loss, predictions))
            return value.detach(), _gradient(value, [data])[0]

    def _in_two_passes(self, loss: DistillationLoss, point: PathSample, data: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the same with the graph of one network in memory at a time.

        The gradient has two parts: the teacher's and the critic's. That of the teacher needs the critic's prediction, once more, unless the
        loss is separable.
        """
        target, source = self.model.target(point), point.condition.source
        reached = [x for x in (source, point.state, target) if x is not None and x.requires_grad]
        leaves = [x.detach().requires_grad_() for x in reached]
        leaf_of = {id(x): leaf for x, leaf in zip(reached, leaves, strict=True)}
        cut = _placed(point, leaf_of.get(id(point.state), point.state), leaf_of.get(id(source), source))
        inputs, target = _inputs([cut]), leaf_of.get(id(target), target)

        def mean(point: PathSample, critic: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            return _mean(map(loss.student_loss, self._by_head(point, critic, teacher, target)))

        with torch.no_grad():  # the slope of a separable loss in the teacher is the same for any critic
            critic = None if loss.separable else self._read_critic(*inputs)
        teacher = self._read_teacher(*inputs)
        constant = _placed(point, point.state.detach(), None if source is None else source.detach())
        slopes = _gradient(mean(constant, teacher.detach() if critic is None else critic, teacher, target.detach()), leaves)
        teacher = teacher.detach()  # its graph is gone before the critic's is there
        value = mean(cut, self._read_critic(*inputs), teacher, target)
        slopes = [a + b for a, b in zip(slopes, _gradient(value, leaves), strict=True)]
        return value.detach(), torch.autograd.grad(reached, data, slopes, materialize_grads=True)[0]

    def generate(self, prompt: Batch, *, generator: torch.Generator) -> Batch:
        """Returns the student's samples with the source that they were made from and the labels of ``prompt``."""
        source = self.model.coupling.source(prompt, generator=generator)
        condition = self.model.condition(source, prompt.label)
        return Batch(self.student(source, condition, generator=generator), source, prompt.label)

    def sample_path(self, samples: Batch, *, real: Batch, generator: torch.Generator) -> PathSample:
        """Returns points on the paths of generated samples; the source of ``real`` joins them unless the coupling keeps pairs."""
        source = samples.source if self.model.coupling.paired else real.source
        return self.model.sample_path(replace(samples, source=source), generator=generator)

    def predictions(self, *points: PathSample) -> list[list[Predictions]]:
        """Returns critic, teacher and target at each point, head by head."""
        joint = points[0].state.numel() <= JOINT if self.joint_forward is None else self.joint_forward
        groups = [points] if joint else [(point,) for point in points]
        return [predictions for group in groups for predictions in self._evaluated(group)]

    def _evaluated(self, points: Sequence[PathSample]) -> list[list[Predictions]]:
        """Evaluates each field once for all points."""
        inputs, sizes = _inputs(points), [len(point.state) for point in points]
        teacher, critic = (field(*inputs).split(sizes) for field in (self._read_teacher, self._read_critic))
        return [self._by_head(*each) for each in zip(points, critic, teacher, map(self.model.target, points), strict=True)]

    def _by_head(self, point: PathSample, critic: Tensor, teacher: Tensor, target: Tensor) -> list[Predictions]:
        three = (self.model.split(x, point.state) for x in (critic, teacher, target))
        heads = zip(*three, self.model.objective.heads, strict=True)
        at, seen = point.coefficients, (point.state, point.time, point.condition)
        return [Predictions(f, f_teacher, row, head.weight(at), *seen) for f, f_teacher, row, head in heads]


def _inputs(points: Sequence[PathSample]) -> tuple[Tensor, Tensor, Condition]:
    """What a field sees at the points, one batch after the other."""
    if len(points) == 1:
        return points[0].state, points[0].time, points[0].condition
    labels, sources = ([getattr(point.condition, name) for point in points] for name in ("label", "source"))
    return (
        torch.cat([point.state for point in points]),
        torch.cat([point.time for point in points]),
        Condition(None if labels[0] is None else torch.cat(labels), None if sources[0] is None else torch.cat(sources)),
    )


def _placed(point: PathSample, state: Tensor, source: Tensor | None) -> PathSample:
    """Returns the point with other tensors for what a field sees."""
    return replace(point, state=state, condition=replace(point.condition, source=source))


def _mean(heads: Iterable[Tensor]) -> Tensor:
    """Returns the mean over samples of the sum over heads."""
    return torch.stack(list(heads)).sum(0).mean()


class _Known(torch.autograd.Function):
    """A number whose gradient with respect to ``x`` is known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def _gradient(value: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad(value, leaves, materialize_grads=True) if value.requires_grad else [torch.zeros_like(x) for x in leaves]


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """A context in which what a module computes has no gradient with respect to its weights."""
    learned = [weight for weight in module.parameters() if weight.requires_grad]
    for weight in learned:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in learned:
            weight.requires_grad_(True)
