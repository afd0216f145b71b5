"""Components: what a run is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from matchlib.algebra.times import TimeDistribution
from matchlib.data.dataset import Dataset
from matchlib.distillation.loss import DistillationLoss
from matchlib.distillation.student import Student
from matchlib.fields.teacher import Teacher
from matchlib.io import copy_fitting
from matchlib.runs.artifact import ArtifactConfig
from matchlib.runs.settings import StudentTraining
from matchlib.training.lora import adapt
from matchlib.training.settings import LoRASettings
from matchlib.training.task import Learner

__all__ = ["Components", "StudentComponents"]


@dataclass(frozen=True)
class StudentComponents:
    """What the student's training is made of.

    Args:
        student: the generator.
        config: describes the student, whose network may be another than the teacher's.
        critic: predicts the teacher's own row.
        loss: compares teacher and critic.
        times: density of t at which they are compared.
        student_lr, critic_lr: Adam's step sizes.
        critic_steps: before each step of the student.
        copies_teacher: whether the student, and whether the critic, starts from weights that the teacher is still to get.
        init_from_teacher: whether a network of the student's own takes the teacher's weights that fit.
        lora: low-rank adapters of the student and of the critic.
        seed: of the adapters.
    """

    student: Student
    config: ArtifactConfig
    critic: nn.Module
    loss: DistillationLoss
    times: TimeDistribution
    student_lr: float
    critic_lr: float
    critic_steps: int
    copies_teacher: tuple[bool, bool]
    init_from_teacher: bool
    lora: tuple[LoRASettings | None, LoRASettings | None] = (None, None)
    seed: int = 0

    def learners(self, trainer: StudentTraining) -> tuple[Learner, Learner]:
        """Returns how student and critic learn."""
        student = Learner(self.student, self.student_lr, trainer.betas, trainer.ema, trainer.extra_ema_decays)
        return student, Learner(self.critic, self.critic_lr, trainer.betas, 0.0)

    def take_weights(self, teacher: Teacher) -> list[str]:
        """Gives student and critic the weights of the finished teacher, where they start from them; returns notes for the user."""
        for module, copies in zip((getattr(self.student, "field", None), self.critic), self.copies_teacher, strict=True):
            if copies and module is not None:
                module.load_state_dict(teacher.field.state_dict())
        if not self.init_from_teacher:
            return []
        return [f"student: initialised from the teacher, {copy_fitting(self.student, teacher.state_dict())}"]

    def adapt(self) -> list[str]:
        """Freezes student and critic where they learn by adapters, and gives them these; returns notes for the user."""
        notes = []
        for i, (kind, module) in enumerate({"student": self.student, "critic": self.critic}.items()):
            lora = self.lora[i]
            if lora is not None:
                whole = sum(weight.numel() for weight in module.parameters())
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(self.seed + 2 + i)
                    learned = adapt(module, lora.rank, lora.targets)
                notes.append(f"{kind}: adapters of rank {lora.rank}, {learned:,} numbers to learn beside {whole:,} frozen ones")
        return notes


@dataclass(frozen=True)
class Components:
    """What a run is made of.

    Args:
        data: in the teacher's units.
        config: describes the teacher.
        teacher: to be trained, or finished.
        finished: whether the teacher needs no training.
        distillation: student, critic and loss; None where only a teacher is trained.
    """

    data: Dataset
    config: ArtifactConfig
    teacher: Teacher
    finished: bool
    distillation: StudentComponents | None

    @property
    def trains_teacher(self) -> bool:
        """Whether the teacher has weights that are to be trained; a formula has none."""
        return not self.finished and any(True for _ in self.teacher.field.parameters())

    @property
    def training_data(self) -> Dataset:
        """The data as the networks see them: without labels where the teacher takes none."""
        spec = self.config.network_spec
        return self.data if spec.classes is not None or spec.label_shape is not None else self.data.without_labels()
