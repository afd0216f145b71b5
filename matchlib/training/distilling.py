"""Training of a student against its critic."""

from __future__ import annotations

from torch import Tensor

from matchlib.algebra.records import Batch
from matchlib.data import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import SettingError
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
    ) -> None:
        if critic_turns < 1:
            raise SettingError(f"critic_turns must be at least 1, got {critic_turns}")
        self.learners = {"student": student, "critic": critic}
        self.distillation, self.dataset, self.streams = distillation, dataset, streams
        self.size, self.together = batch, distillation.model.coupling.together(batch)
        self.cycle, self.turns = critic_turns + 1, turns

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
        return self.distillation.critic_loss(real, prompt, generator=generator, progress=progress)
