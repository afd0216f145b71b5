"""Tasks: what one step of training is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from matchlib.algebra.model import Field, MatchingModel
from matchlib.algebra.records import Batch, drop_labels
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import SettingError
from matchlib.training.random import Streams, place

__all__ = ["DistillationTask", "Learner", "MatchingTask", "Task"]


@dataclass(frozen=True)
class Learner:
    """A module that is trained, and how.

    Args:
        module: whose parameters that require a gradient are trained.
        lr: Adam's step size, > 0.
        betas: Adam's averaging constants, each in [0, 1).
        ema: decay of the exponential moving average of the weights per own step, in [0, 1).
        extra_ema_decays: decays of further averages.
    """

    module: nn.Module
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.999
    extra_ema_decays: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise SettingError(f"the step size must be positive, got {self.lr}")
        if not all(0 <= x < 1 for x in (self.ema, *self.extra_ema_decays, *self.betas)):
            raise SettingError(
                f"ema, extra_ema_decays and betas must lie in [0, 1), got ema={self.ema}, extra_ema_decays={self.extra_ema_decays}, "
                f"betas={self.betas}"
            )


class Task(ABC):
    """A pure function from a step number to a loss; everything random is drawn from streams of that step.

    Attributes:
        learners: by name; a turn changes only its own learner's module.
        size: samples in the batch of a turn.
        block_size: how many neighbours in a batch must not be parted into different shares.
    """

    learners: Mapping[str, Learner]
    size: int
    block_size: int = 1

    @abstractmethod
    def learner(self, step: int) -> str:
        """Returns the name of the learner that steps at ``step``, counted from 0."""

    @abstractmethod
    def loss(self, step: int, rows: int) -> Tensor:
        """Returns that learner's loss at ``step``, a scalar with a graph: the mean over ``rows`` samples of the batch.

        With fewer rows than ``size`` it is called within a ``matchlib.training.random.BatchSlice``, which decides whose random numbers
        are drawn.
        """


class MatchingTask(Task):
    """Minimises ``model.loss`` over one field.

    Args:
        learner: of the field.
        model: what it is trained for.
        dataset: on the streams' device.
        streams: of the run.
        batch_size: samples a step.
        label_dropout: share of the samples whose label the field is not told, in [0, 1): what classifier-free guidance needs (Ho,
            Salimans, "Classifier-Free Diffusion Guidance", 2022, https://arxiv.org/abs/2207.12598).
        field: what to call in place of the learner's module, where several processes train it.
    """

    def __init__(
        self,
        learner: Learner,
        model: MatchingModel,
        dataset: Dataset,
        streams: Streams,
        *,
        batch_size: int,
        label_dropout: float = 0.0,
        field: Field | None = None,
    ) -> None:
        if not 0 <= label_dropout < 1:
            raise SettingError(f"label_dropout must lie in [0, 1), got {label_dropout}")
        self.label_dropout = label_dropout
        self.learners = {"field": learner}
        self.field: Field = field or learner.module
        self.model, self.dataset, self.streams = model, dataset, streams
        self.size, self.block_size = batch_size, model.coupling.block_size(batch_size)

    def learner(self, step: int) -> str:
        return "field"

    def _draw(self, step: int, rows: int) -> Batch:
        batch = self.dataset.draw(rows, self.streams("real", step))
        if batch.label is None or not self.label_dropout:
            return batch
        generator = self.streams("dropout", step)
        missing = torch.rand(len(batch.label), generator=generator, device=batch.label.device) < self.label_dropout
        return replace(batch, label=drop_labels(batch.label, missing))

    def loss(self, step: int, rows: int) -> Tensor:
        return self.model.loss(self.field, self._draw(step, rows), generator=self.streams("point", step)).mean()


class DistillationTask(Task):
    """Alternates critic and student turns.

    Args:
        distillation: the losses.
        student, critic: how each learns; their modules are those of ``distillation``, or what they are called through.
        dataset: on the streams' device.
        streams: of the run.
        batch_size: samples a turn.
        critic_steps: critic turns before each student turn, >= 1.
        steps: in all; a loss with a schedule asks how many are done.
        critic_steps_per_batch: critic turns in a row that see the same generated samples, at other times and with other real data, >= 1.
    """

    def __init__(
        self,
        distillation: Distillation,
        student: Learner,
        critic: Learner,
        dataset: Dataset,
        streams: Streams,
        *,
        batch_size: int,
        critic_steps: int = 1,
        steps: int = 1,
        critic_steps_per_batch: int = 1,
    ) -> None:
        for name, value in (("critic_steps", critic_steps), ("critic_steps_per_batch", critic_steps_per_batch)):
            if value < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")
        self.learners = {"student": student, "critic": critic}
        self.distillation, self.dataset, self.streams = distillation, dataset, streams
        self.size, self.block_size = batch_size, distillation.model.coupling.block_size(batch_size)
        self.cycle, self.steps, self.critic_steps_per_batch = critic_steps + 1, steps, critic_steps_per_batch
        self._made: dict[int, tuple[int, Batch]] = {}  # by first row of a share: when its samples were made, and they

    def learner(self, step: int) -> str:
        return "student" if (step + 1) % self.cycle == 0 else "critic"

    def loss(self, step: int, rows: int) -> Tensor:
        def draw(stream: str) -> Batch:
            return self.dataset.draw(rows, self.streams(stream, step))

        generator = self.streams("point", step)
        prompt, progress = draw("prompt"), min(step / self.steps, 1.0)
        if self.learner(step) == "student":
            other = draw("real") if self.dataset.paired else prompt  # only its source is used
            return self.distillation.student_loss(prompt=prompt, real=other, generator=generator, progress=progress)
        real = draw("real") if self.dataset.paired or self.distillation.loss.uses_real else prompt
        samples = self._reused(step, rows) if self.critic_steps_per_batch > 1 else None
        return self.distillation.critic_loss(prompt=prompt, real=real, generator=generator, progress=progress, samples=samples)

    def _reused(self, step: int, rows: int) -> Batch:
        """The samples that some critic turns in a row share; made anew where they are not there, as after a resume."""
        turn = step % self.cycle
        first, (begin, _) = step - turn % self.critic_steps_per_batch, place(rows)
        when, made = self._made.get(begin, (-1, None))
        if made is None or when != first or len(made.data) != rows:
            prompt = self.dataset.draw(rows, self.streams("prompt", first))
            with torch.no_grad():
                made = self.distillation.generate(prompt, generator=self.streams("made", first))
            self._made[begin] = first, made
        return made
