"""From settings to student, critic and loss; everything that can be refused is refused here, before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matchlib.distillation.distillation import Distillation
from matchlib.distillation.family import Defaults
from matchlib.distillation.loss import DistillationLoss
from matchlib.distillation.student import Student
from matchlib.errors import ArtifactError, IncompatibleError, SettingError, UnknownNameError, nearest
from matchlib.fields.teacher import Teacher
from matchlib.io import copy_fitting
from matchlib.registry import objectives, students
from matchlib.runs.artifact import ArtifactConfig, build_field, build_student, load_artifact, times_of
from matchlib.runs.settings import EngineSettings, RunSettings
from matchlib.runs.teachers import recipe_of
from matchlib.training.precision import prepare
from matchlib.training.settings import EngineSettings as Engine
from matchlib.training.settings import TrainerSettings

__all__ = ["Distilled", "device_of", "distillation_of", "prepared", "student_steps", "teacher_steps"]


def device_of(name: str) -> torch.device:
    """Returns the device that a setting names; ``auto`` is CUDA where there is one.

    Raises:
        SettingError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingError(f"device {name!r} is not available here (auto, cpu, cuda or cuda:N): {str(error).splitlines()[0]}") from error
    return device


def teacher_steps(settings: RunSettings) -> TrainerSettings:
    """Returns the trainer's settings for the teacher's phase."""
    return _steps(settings, settings.teacher.training)


def student_steps(settings: RunSettings) -> TrainerSettings:
    """Returns the trainer's settings for the student's phase."""
    return _steps(settings, settings.trainer)


def _steps(settings: RunSettings, phase: Any) -> TrainerSettings:
    own = {key: getattr(phase, key) for key in ("steps", "warmup", "lr_decay", "max_grad_norm", "adaptive_clip")}
    t = settings.trainer
    every = {key: getattr(t, key) for key in ("log_every", "checkpoint_every", "keep_last", "monitor_every", "on_alarm")}
    return TrainerSettings(**own, **every, engine=Engine(**asdict(t.engine)))


@dataclass(frozen=True)
class Distilled:
    """A distillation ready to train, the student's spec for its card, the step sizes of student and critic, and what to tell the user."""

    distillation: Distillation
    student: Mapping[str, Any]
    student_lr: float
    critic_lr: float
    notes: tuple[str, ...] = ()


def distillation_of(settings: RunSettings, card: ArtifactConfig, teacher: Teacher, loss: DistillationLoss, *, paired: bool) -> Distilled:
    """Builds student and critic for a teacher.

    Raises:
        MatchlibError: student, loss and teacher do not fit.
    """
    recipe, t = teacher.defaults or recipe_of(settings.teacher, card, paired=paired), settings.trainer
    spec, student = _student(settings, card, teacher, recipe)
    critic = _critic(settings, card, teacher)
    for kind, module, setting in (("student", student, "student.network"), ("critic", critic, "trainer.critic_network")):
        if not _has_weights(module):
            raise IncompatibleError(f"the network of the {kind} has no weights to train; choose another with {setting}.name")
    times = times_of({**asdict(recipe.times_of(card.model)), **(t.times or {})})
    notes = []
    if settings.student.init_from_teacher and spec.get("network"):
        notes.append(f"student: warm start, {copy_fitting(student, teacher.state_dict())}")
    return Distilled(
        Distillation(teacher, student, critic, loss, times),
        spec,
        t.student_lr or t.student_lr_scale * recipe.student_lr,
        t.critic_lr or t.critic_lr_scale * recipe.critic_lr,
        tuple(notes),
    )


def prepared(module: nn.Module, engine: EngineSettings, *, frozen: bool = False) -> nn.Module:
    """Prepares a module as the engine's settings say, in place.

    Args:
        frozen: whether it is the teacher of a student in training.
    """
    precision = (engine.teacher_precision if frozen else None) or engine.precision
    return prepare(
        module,
        precision=precision,  # type: ignore[arg-type]
        compile=engine.compile,  # type: ignore[arg-type]
        channels_last=engine.channels_last,
        checkpointing=engine.checkpointing,
        frozen=frozen,
    )


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _critic(settings: RunSettings, card: ArtifactConfig, teacher: Teacher) -> nn.Module:
    """Returns the network that is asked for; else a copy of the teacher's field, or a fresh one where that has no weights to learn."""
    own = settings.trainer.critic_network
    if own is None and _has_weights(teacher.field):
        return copy.deepcopy(teacher.field).train().requires_grad_(True)
    torch.manual_seed(settings.seed + 1)  # not the student's weights again
    return build_field(own or settings.teacher.network, card.signature, card.model, card.moments)


def _student(settings: RunSettings, card: ArtifactConfig, teacher: Teacher, recipe: Defaults) -> tuple[Mapping[str, Any], Student]:
    """Returns the spec and the module: a new student of a plugin, or that of a finished run."""
    s = settings.student
    if s.name in students:
        own: dict[str, Any] = {"network": s.network or settings.teacher.network} if s.network or not _has_weights(teacher.field) else {}
        if own and s.init_from_teacher:
            own["objective"] = objectives.describe(teacher.model.objective)  # so that equal weights mean the same
        spec = {"name": s.name, "t_start": recipe.t_start, **s.options, **own}
        torch.manual_seed(settings.seed)
        return spec, build_student(spec, teacher, card.signature)
    folder = Path(s.name)
    place = folder / "student" if (folder / "student").is_dir() else folder
    if not (place / "card.json").exists():
        known = ", ".join(students)
        raise UnknownNameError(
            f"student {s.name!r} is neither a registered student ({known}) nor the folder of a finished run{nearest(s.name, students)}"
        )
    other, student = load_artifact(place)
    if not isinstance(student, Student) or other.student is None:
        raise ArtifactError(f"{place} holds a teacher, not a student")
    if other.signature != card.signature:
        raise IncompatibleError(f"the student of {folder} was made for {other.signature}, the teacher for {card.signature}")
    return other.student, student
