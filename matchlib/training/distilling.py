"""Training of a student against its critic."""

from __future__ import annotations

import torch
from torch import Tensor

from matchlib.algebra.records import Batch
from matchlib.data import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import SettingError
from matchlib.shares import place
from matchlib.streams import Streams
from matchlib.training.algorithm import Algorithm, Learner

__all__ = ["Distilling"]


class Distilling(Algorithm):
    """Alternates critic and student turns.

    Args:
        distillation: the losses.
        student, critic: how each learns; their modules are those of ``distillation``, or what they are called through.
        dataset: on the streams' device.
        streams: of the run.
        batch: samples a turn.
        critic_turns: critic turns before each student turn, >= 1.
        turns: in all; a loss with a schedule asks how many are done.
        reuse: critic turns in a row that see the same generated samples, at other times and with other real data, >= 1.
    """

    def __init__(
        self,
        distillation: Distillation,
        student: Learner,
        critic: Learner,
        dataset: Dataset,
        streams: Streams,
        *,
        batch: int,
        critic_turns: int = 1,
        turns: int = 1,
        reuse: int = 1,
    ) -> None:
        for name, value in (("critic_turns", critic_turns), ("reuse", reuse)):
            if value < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")
        self.learners = {"student": student, "critic": critic}
        self.distillation, self.dataset, self.streams = distillation, dataset, streams
        self.size, self.together = batch, distillation.model.coupling.together(batch)
        self.cycle, self.turns, self.reuse = critic_turns + 1, turns, reuse
        self._made: dict[int, tuple[int, Batch]] = {}  # by first row of a share: when its samples were made, and they

    def learner(self, step: int) -> str:
        return "student" if (step + 1) % self.cycle == 0 else "critic"

    def loss(self, step: int, rows: int) -> Tensor:
        def draw(stream: str) -> Batch:
            return self.dataset.draw(rows, self.streams(stream, step))

        generator = self.streams("point", step)
        prompt, progress = draw("prompt"), min(step / self.turns, 1.0)
        if self.learner(step) == "student":
            other = draw("real") if self.dataset.paired else prompt  # only its source is used
            return self.distillation.student_loss(prompt, other, generator=generator, progress=progress)
        real = draw("real") if self.dataset.paired or self.distillation.loss.uses_real else prompt
        samples = self._reused(step, rows) if self.reuse > 1 else None
        return self.distillation.critic_loss(real, prompt, generator=generator, progress=progress, samples=samples)

    def _reused(self, step: int, rows: int) -> Batch:
        """The samples that some critic turns in a row share; made anew where they are not there, as after a resume."""
        turn = step % self.cycle
        first, (begin, _) = step - turn % self.reuse, place(rows)
        when, made = self._made.get(begin, (-1, None))
        if made is None or when != first or len(made.data) != rows:
            prompt = self.dataset.draw(rows, self.streams("prompt", first))
            with torch.no_grad():
                data, source = self.distillation.generate(prompt, generator=self.streams("made", first))
            made = Batch(data, source, prompt.label)
            self._made[begin] = first, made
        return made
