"""Tasks: how a field, or a student and its critic, are trained."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from matchlib.algebra.model import Field, MatchingModel
from matchlib.algebra.records import Batch, drop_labels
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import SettingError
from matchlib.registry import tasks
from matchlib.training.ahead import Ahead
from matchlib.training.distributed import SingleProcess
from matchlib.training.monitor import unchanged_buffers
from matchlib.training.random import Streams, may_draw, seeded, slice_position
from matchlib.training.task import Learner, Task

__all__ = ["DistillationTask", "MatchingTask"]


@tasks.register("matching")
class MatchingTask(Task):
    """Minimises ``model.loss`` over one field.

    Args:
        learner: of the field.
        model: what it is trained for.
        dataset: on the streams' device.
        streams: of the run.
        batch_size: samples a step.
        label_dropout: fraction of samples whose label is hidden from the field, in [0, 1), as classifier-free guidance needs (Ho,
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
        self.data = Ahead(dataset, streams)
        self.batch_size, self.block_size = batch_size, model.coupling.block_size(batch_size)

    def learner(self, step: int) -> str:
        return "field"

    def loss(self, learner: str, rows: int, step: int) -> Tensor:
        return self.model.loss(self.field, self._batch(rows, step), generator=self.streams("point", step)).mean()

    def _batch(self, rows: int, step: int) -> Batch:
        batch = self.data.draw(rows, "real", step)
        if batch.label is None or not self.label_dropout:
            return batch
        generator = self.streams("dropout", step)
        dropped = torch.rand(len(batch.label), generator=generator, device=batch.label.device) < self.label_dropout
        return replace(batch, label=drop_labels(batch.label, dropped))


@tasks.register("distillation")
class DistillationTask(Task):
    """Alternates critic steps and student steps.

    Args:
        distillation: the losses.
        student, critic: how each learns; their modules are those of ``distillation``, or what these call.
        dataset: on the streams' device.
        streams: of the run.
        batch_size: samples a step.
        critic_steps: critic steps before each student step, >= 1.
        steps: in all, for losses with a schedule.
        critic_steps_per_batch: consecutive critic steps that see the same generated samples, at other times and with other real data, >= 1.
        strategy: what wraps the modules that a method adds, where several processes train them.
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
        strategy: SingleProcess | None = None,
    ) -> None:
        for name, value in (("critic_steps", critic_steps), ("critic_steps_per_batch", critic_steps_per_batch)):
            if value < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")
        self.learners = {"student": student, "critic": critic}
        self.frozen = (distillation.teacher,)
        self.distillation, self.dataset, self.streams = distillation, dataset, streams
        self.data = Ahead(dataset, streams)
        self.batch_size, self.block_size = batch_size, distillation.model.coupling.block_size(batch_size)
        self.cycle, self.steps, self.critic_steps_per_batch = critic_steps + 1, steps, critic_steps_per_batch
        self.strategy = strategy or SingleProcess()
        self._shared: dict[int, tuple[int, Batch]] = {}  # by first row of a slice: the step at which samples were generated, and they

    def learner(self, step: int) -> str:
        return "student" if (step + 1) % self.cycle == 0 else "critic"

    def progress(self, step: int) -> float:
        """Returns the fraction of the steps that are done at ``step``, in [0, 1]."""
        return min(step / self.steps, 1.0)

    def prompt_and_real(self, rows: int, step: int, *, real: bool) -> tuple[Batch, Batch]:
        """Returns the batches of a step: what the student generates from, and independent data.

        Args:
            real: whether the second is needed for its data; else the first stands for it, unless the data are pairs.
        """
        prompt = self.data.draw(rows, "prompt", step)
        return prompt, self.data.draw(rows, "real", step) if real or self.dataset.paired else prompt

    def loss(self, learner: str, rows: int, step: int) -> Tensor:
        generator, progress = self.streams("point", step), self.progress(step)
        if learner == "student":
            prompt, other = self.prompt_and_real(rows, step, real=False)
            return self.distillation.student_loss(prompt=prompt, real=other, generator=generator, progress=progress)
        uses_real = self.distillation.loss.uses_real
        if self.critic_steps_per_batch == 1:
            prompt, real = self.prompt_and_real(rows, step, real=uses_real)
            return self.distillation.critic_loss(prompt=prompt, real=real, generator=generator, progress=progress)
        samples = self._shared_samples(rows, step)
        other = self.data.draw(rows, "real" if uses_real or self.dataset.paired else "prompt", step)
        return self.distillation.critic_loss(prompt=samples, real=other, generator=generator, progress=progress, samples=samples)

    def _shared_samples(self, rows: int, step: int) -> Batch:
        """The samples that some consecutive critic steps share, generated again where they are missing, as after a resume."""
        first = step - step % self.cycle % self.critic_steps_per_batch
        begin, _ = slice_position(rows)
        when, samples = self._shared.get(begin, (-1, None))
        if samples is None or when != first or len(samples.data) != rows:
            prompt = self.data.draw(rows, "prompt", first)
            draws = seeded(self.streams(f"made-network-{begin}", first)) if may_draw(self.distillation.student) else nullcontext()
            counted = nullcontext() if step == first else unchanged_buffers([self.distillation.student])  # they were, the first time
            with torch.no_grad(), draws, counted:
                samples = self.distillation.generate(prompt, generator=self.streams("made", first))
            self._shared[begin] = first, samples
        return samples
