"""Checks: what a run would be refused for late, refused before it begins."""

from __future__ import annotations

import logging

import torch

from matchlib.algebra.coupling import Coupling
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import IncompatibleError, SettingError
from matchlib.evaluation.reference import Extractor, Reference
from matchlib.evaluation.score import applying
from matchlib.registry import couplings, metrics, samplers, trackers
from matchlib.runs.artifact import ArtifactConfig
from matchlib.runs.components import Components, StudentComponents
from matchlib.runs.method import method_of
from matchlib.runs.settings import RunSettings
from matchlib.training.lora import layers_of
from matchlib.training.precision import Checkpointed
from matchlib.training.random import BatchSlice, Streams
from matchlib.training.trainer import require_whole_blocks

__all__ = ["check_batches", "check_evaluation", "check_guidance", "check_method", "check_trackers", "warn_of_idle_settings"]

logger = logging.getLogger("matchlib")


def check_guidance(config: ArtifactConfig) -> None:
    """Refuses guidance of a teacher that cannot be asked without labels."""
    if config.guidance == 1.0:
        if config.guidance_interval is not None:
            raise SettingError("teacher.guidance_interval changes nothing without guidance: set teacher.guidance, or leave it out")
        return
    if config.network_spec.classes is None and config.network_spec.label_shape is None:
        raise IncompatibleError(f"guidance {config.guidance:g} needs a teacher with labels, and this one has none")
    if config.label_dropout == 0:
        raise IncompatibleError(
            f"guidance {config.guidance:g} needs a teacher that was trained with dropped labels: --set teacher.training.label_dropout=0.1"
        )


def check_method(settings: RunSettings, built: Components, parts: StudentComponents) -> None:
    """Refuses now what would end a run when its teacher is trained."""
    of = Distillation(built.teacher, parts.student, parts.critic, parts.loss, parts.times)
    t, streams = settings.trainer, Streams(settings.seed, torch.device("cpu"))
    task = method_of(t, of, parts.learners(t), built.training_data, streams, critic_steps=parts.critic_steps)
    require_whole_blocks(list(BatchSlice.of(task.batch_size).parts(t.engine.micro_batch_size)), task.block_size)
    for path, module, lora in zip(("student.lora", "trainer.critic_lora"), (parts.student, parts.critic), parts.lora, strict=True):
        if lora is not None:
            try:
                layers_of(module, lora.targets)
            except SettingError as error:
                raise SettingError(f"{path}.targets: {error}") from None


def warn_of_idle_settings(settings: RunSettings, built: Components) -> None:
    """Names settings that change nothing of this run."""
    parts, shared = built.distillation, settings.trainer.critic_steps_per_batch
    if built.trains_teacher and settings.teacher.training.label_dropout and built.training_data.labels is None:
        logger.warning("teacher.training.label_dropout changes nothing: the data have no labels")
    if parts is not None and settings.student.init_from_teacher and not parts.init_from_teacher:
        logger.warning("student.init_from_teacher changes nothing: without student.network the student has the teacher's weights anyway")
    if settings.student.lora is not None and settings.student.network is not None and not settings.student.init_from_teacher:
        logger.warning("student.lora learns beside random weights, those of student.network: student.init_from_teacher=true would fill it")
    if parts is not None and settings.trainer.engine.checkpointing and not any(isinstance(x, Checkpointed) for x in parts.critic.modules()):
        logger.warning("trainer.engine.checkpointing changes nothing: the network has no blocks that matchlib could compute again")
    if parts is not None and shared > parts.critic_steps:
        logger.warning(
            "trainer.critic_steps_per_batch=%d is as %d: there are no more critic steps between two of the student (trainer.critic_steps)",
            shared,
            parts.critic_steps,
        )


def check_batches(settings: RunSettings, coupling: Coupling, *, trains_teacher: bool) -> None:
    """Refuses batches that a coupling cannot pair."""
    training = {"teacher.training": settings.teacher.training} if trains_teacher else {}
    for path, part in (training | ({"trainer": settings.trainer} if settings.command == "distill" else {})).items():
        if part.batch_size < coupling.least:
            raise SettingError(
                f"{path}.batch_size: coupling {couplings.name_of(coupling)!r} needs at least {coupling.least}, got {part.batch_size}"
            )


def check_trackers(settings: RunSettings) -> None:
    """Refuses trackers whose package is missing."""
    for path, training in (("teacher.training", settings.teacher.training), ("trainer", settings.trainer)):
        for spec in training.trackers:
            try:
                trackers.build(spec).check()
            except SettingError as error:
                raise SettingError(f"{path}.trackers: {error}") from None


def check_evaluation(settings: RunSettings, config: ArtifactConfig, data: Dataset) -> None:
    """Refuses now what would end a run when everything is trained."""
    e = settings.evaluation
    for name in e.metrics or ():
        metrics[name]
    few = Reference(data.train.data[:8], data.held_out.data[:8], _Classes(data.classes))
    if e.metrics is not None and not applying(few, e.metrics):
        raise SettingError(
            f"evaluation.metrics: none of {list(e.metrics)} applies to {data.name}; those that do: {', '.join(applying(few))}"
        )
    for steps in e.teacher_steps:
        samplers.build({**config.sampler, "steps": steps})
    best = settings.trainer.keep_best_by
    if best is not None and not metrics[best].better:
        fit = ", ".join(name for name in metrics if metrics[name].better)
        raise SettingError(f"trainer.keep_best_by: {best} has no better side; choose one of {fit}")
    if best is not None and not applying(few, (best,)):
        raise SettingError(f"trainer.keep_best_by: {best} does not apply to {data.name}; choose another metric")


class _Classes(Extractor):
    """Stands for the features that scores will have, of which it knows the number of classes: clusters, where there are no labels."""

    def __init__(self, classes: int | None) -> None:
        self.classes = 2 if classes is None else classes
