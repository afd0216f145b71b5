"""Runs: settings to folders. A run is a list of phases, and a phase whose result is there is skipped: resuming is running again.

settings -> data, teacher (trained, cached or taken from a run) -> Distillation -> Trainer.fit -> run folder
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.loss import DistillationLoss
from matchlib.errors import ArtifactError, SettingError
from matchlib.evaluation.features import cache_folder
from matchlib.evaluation.report import evaluate
from matchlib.evaluation.score import key_of, reference_of, scores
from matchlib.fields.preconditioned import ExactField
from matchlib.fields.teacher import Teacher
from matchlib.registry import families, losses, metrics, samplers
from matchlib.runs.artifact import ArtifactConfig, dataset_of, load_artifact, save_artifact, save_average, versions
from matchlib.runs.build import Distilled, device_of, distillation_of, prepared, student_steps, teacher_steps
from matchlib.runs.pipeline import Pipeline
from matchlib.runs.settings import RunSettings
from matchlib.runs.teachers import card_of, check_guidance, data_piece, fresh_teacher, python_teacher, teacher_card, teacher_of_run
from matchlib.training.callbacks import Progress, standard_callbacks
from matchlib.training.checkpoint import Checkpoints, step_of
from matchlib.training.distributed import init_distributed, strategy
from matchlib.training.monitor import DistillationMonitor, Monitor
from matchlib.training.random import Streams
from matchlib.training.settings import TrainerSettings
from matchlib.training.task import DistillationTask, Learner, MatchingTask, Task
from matchlib.training.trainer import Trainer

__all__ = ["Hooks", "Run"]


@dataclass(frozen=True)
class Hooks:
    """How a run talks to whoever started it.

    Args:
        show: called with a Progress now and then.
        say: called with one line at each event.
        stop: asked after every step; True ends the run with a checkpoint.
    """

    show: Callable[[Progress], None] = lambda progress: None
    say: Callable[[str], None] = lambda line: None
    stop: Callable[[], bool] = lambda: False


@dataclass
class Run:
    """One run and its folder.

    Args:
        settings: complete.
        folder: where results go.
        hooks: for progress and interruption.
        dataset, teacher, loss: made in Python, in place of those that the settings name.
        checkpoint: to go on from; None for the latest.

    Raises:
        MatchlibError: the settings cannot work; nothing was written.
    """

    settings: RunSettings
    folder: Path
    hooks: Hooks = field(default_factory=Hooks)
    dataset: Dataset | None = None
    teacher: tuple[ArtifactConfig, Teacher] | None = None
    loss: DistillationLoss | None = None
    checkpoint: Path | None = None
    generators: dict[str, Pipeline] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.device = init_distributed(device_of(self.settings.device))
        self.parallel = strategy(self.settings.trainer.engine.parallel)
        if self.parallel.rank:
            self.hooks = Hooks(stop=self.hooks.stop)  # the first process speaks for all
        self.streams = Streams(self.settings.seed, self.device)
        self.data: Dataset = self.dataset or dataset_of(data_piece(self.settings.data))
        self.card, self.untrained = self._teacher_before_training()
        self.data = self.data.normalized_as(self.card.data["shift"], self.card.data["scale"])
        check_guidance(self.card)
        samplers.build(self.card.sampler).check(self.card.model)
        for name in self.settings.evaluation.metrics or ():
            metrics[name]
        self._check_best()
        teacher_steps(self.settings)
        if self.checkpoint is not None and not any(step_of(self.checkpoint, phase) is not None for phase in ("teacher", "student")):
            raise ArtifactError(f"{self.checkpoint} is no checkpoint of a run, which is called PHASE-STEP.safetensors")
        if self.settings.command == "distill":
            self.loss_of_run: DistillationLoss = self.loss or losses.build(self.settings.loss)
            student_steps(self.settings)
            made = distillation_of(self.settings, self.card, self.untrained, self.loss_of_run, paired=self.data.paired)
            self._distilling(made.distillation, made, self.data)

    def _teacher_before_training(self) -> tuple[ArtifactConfig, Teacher]:
        made = python_teacher(self.settings.teacher.name) if self.teacher is None else None
        if made is not None:
            self.teacher = card_of(made, self.data, self.settings), made
        if self.teacher is not None:
            return self.teacher
        if self.settings.teacher.name in families:
            card = teacher_card(self.settings, self.data)
            return card, fresh_teacher(card, self.settings.seed)
        return teacher_of_run(self.settings.teacher.name, self.data, self.settings.teacher.guidance)

    @property
    def finished(self) -> bool:
        """Whether every phase is done."""
        return (self.folder / "evaluation.json").exists()

    def execute(self) -> dict[str, Any]:
        """Runs every phase that is not done and returns the evaluation.

        Raises:
            Interrupted: ``hooks.stop`` said so; a checkpoint is written.
            DivergedError: training stopped itself.
        """
        teacher = self._finish("teacher", self._make_teacher)
        made = {"teacher": teacher}
        if self.settings.command == "distill":
            self._warn()
            made["student"] = self._finish("student", lambda: self._make_student(teacher))
        self.generators = {kind: Pipeline(self.card, module, self.device) for kind, module in made.items()}
        return self.evaluate()

    def _warn(self) -> None:
        if self.card.guidance != 1.0:
            self.hooks.say(
                f"note: a teacher guided by {self.card.guidance:g} minimises no matching loss, so the student's optimum is not its law and "
                "the least loss is above zero; a loss that uses real data pulls the student away from what guidance does"
            )

    def evaluate(self) -> dict[str, Any]:
        """Scores what ``execute`` made, and returns and writes the evaluation."""
        self.hooks.say("evaluation: sampling and scoring")
        return evaluate(self.folder, self.generators, self.data, self.settings.evaluation, self.settings.seed, self.parallel)

    def _finish(self, kind: str, make: Callable[[], tuple[ArtifactConfig, nn.Module]]) -> Any:
        """Returns the module in the run's folder, made and saved first if it is not there."""
        target = self.folder / kind
        there = self.parallel.on_main_process((target / "card.json").exists)
        if there and not (kind == "teacher" and self.teacher is not None):
            return load_artifact(target)[1]
        card, module = make()
        self._write(lambda: save_artifact(target, card, module))
        return module

    # -- the teacher -----------------------------------------------------------------------------------------------------

    def _make_teacher(self) -> tuple[ArtifactConfig, nn.Module]:
        name = self.settings.teacher.name
        if self.teacher is not None:
            return self.teacher
        if name not in families:
            self.hooks.say(f"teacher: taken from {name}")
            return teacher_of_run(name, self.data, self.settings.teacher.guidance)
        cached = cache_folder() / "teachers" / self._teacher_key()
        self.parallel.on_main_process(lambda: None)  # nobody writes there before everyone has looked
        try:
            teacher = load_artifact(cached)[1]
            assert isinstance(teacher, Teacher)
            teacher.guidance = self.card.guidance  # the weights do not depend on it
            self.hooks.say(f"teacher: taken from the cache, {cached}")
            return self.card, teacher
        except ArtifactError:  # not there, or damaged: train
            teacher = self._train_teacher()
        try:
            self._write(lambda: save_artifact(cached, self.card, teacher))
        except ArtifactError as error:
            self.hooks.say(f"teacher: not cached ({error})")
        return self.card, teacher

    def _teacher_key(self) -> str:
        """Names the teacher of these settings in the cache: a digest of everything that its weights depend on."""
        card = {key: value for key, value in self.card.to_json().items() if key not in ("sampler", "data", "guidance")}
        training = asdict(self.settings.teacher.training)
        digest = hashlib.sha256(json.dumps([card, training, self.device.type], sort_keys=True).encode())
        for tensor in (self.data.train.data, self.data.train.source, self.data.train.label):
            digest.update(b"" if tensor is None else tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:20]

    def _train_teacher(self) -> Teacher:
        training, card = self.settings.teacher.training, self.card
        field_ = fresh_teacher(card, self.settings.seed).field.train().requires_grad_(True)
        if isinstance(field_, ExactField):
            field_.fit(self.data.train)
            return Teacher(field_, card.model, card.moments, card.guidance)
        placed = self._place(field_)
        learner = Learner(field_, training.lr, training.betas, training.ema)
        data = self.data.compact().to(self.device)
        dropout = training.label_dropout
        algorithm = MatchingTask(
            learner, card.model, data, self.streams, batch_size=training.batch_size, label_dropout=dropout, field=placed
        )
        made = self._trainer(algorithm, teacher_steps(self.settings), "teacher").fit()["field"]
        return Teacher(made, card.model, card.moments, card.guidance)

    # -- the student -----------------------------------------------------------------------------------------------------

    def _make_student(self, teacher: Teacher) -> tuple[ArtifactConfig, nn.Module]:
        t = self.settings.trainer
        made = distillation_of(self.settings, self.card, teacher, self.loss_of_run, paired=self.data.paired)
        for note in made.notes:
            self.hooks.say(note)
        of = made.distillation
        frozen = self._place(copy.deepcopy(teacher), frozen=True)
        student, critic = self._place(of.student), self._place(of.critic)
        times, engine = of.model.times, t.engine
        distillation = Distillation(
            frozen, student, critic, self.loss_of_run, times, split=engine.split, joint_forward=engine.joint_forward
        )
        data = self.data.compact().to(self.device)
        algorithm = self._distilling(distillation, made, data)
        watch = DistillationMonitor(distillation, data, self.streams, steps=t.steps)
        trainer = self._trainer(algorithm, student_steps(self.settings), "student", watch, self._judge())
        student = trainer.fit()["student"]
        for decay, module in trainer.averages("student").items():
            self._write(lambda decay=decay, module=module: save_average(self.folder / "student", decay, module))  # type: ignore[misc]
        return replace(self.card, kind="student", student=dict(made.student)), student

    def _distilling(self, distillation: Distillation, made: Distilled, data: Dataset) -> DistillationTask:
        """The student's training; the learners are modules as they were before they were placed."""
        t = self.settings.trainer
        return DistillationTask(
            distillation,
            Learner(made.distillation.student, made.student_lr, t.betas, t.ema, t.extra_ema_decays),
            Learner(made.distillation.critic, made.critic_lr, t.betas, 0.0),
            data,
            self.streams,
            batch_size=t.batch_size,
            critic_steps=t.critic_steps,
            steps=t.steps,
            critic_steps_per_batch=t.critic_steps_per_batch,
            strategy=self.parallel,
        )

    def _place(self, module: nn.Module, *, frozen: bool = False) -> Any:
        """Moves a module to the device, prepares its networks and shares it among the processes."""
        return self.parallel.wrap(prepared(module.to(self.device), self.settings.trainer.engine, frozen=frozen))

    def _write(self, write: Callable[[], Any]) -> Any:
        """Lets the first process write, and everyone go on when it is done."""
        return self.parallel.on_main_process(write)

    def _check_best(self) -> None:
        name = self.settings.trainer.keep_best_by
        if name is not None and not metrics[name].better:
            fit = ", ".join(other for other in metrics if metrics[other].better)
            raise SettingError(f"trainer.keep_best_by: {name} has no better side; choose one of {fit}")

    def _judge(self) -> Callable[[Mapping[str, nn.Module]], float] | None:
        """What judges checkpoints: a metric of samples, as many as there are held-out data, always from the same random numbers."""
        name = self.settings.trainer.keep_best_by
        if name is None:
            return None
        reference, _ = reference_of(self.data)

        def judge(modules: Mapping[str, nn.Module]) -> float:
            generator = Pipeline(self.card, modules["student"], self.device)  # type: ignore[arg-type]
            samples = generator.draw(reference.size, seed=self.settings.seed, parallel=self.parallel).data
            value: float = self.parallel.on_main_process(lambda: scores(reference, samples, [name])[key_of(name)])
            return -metrics[name].better * value

        return judge

    def _trainer(
        self,
        algorithm: Task,
        settings: TrainerSettings,
        phase: str,
        watch: Monitor | None = None,
        judge: Callable[[Mapping[str, nn.Module]], float] | None = None,
    ) -> Trainer:
        named = self.checkpoint if self.checkpoint is not None and step_of(self.checkpoint, phase) is not None else None
        note = {"versions": json.dumps(versions())}
        log, on_progress = self.folder / "metrics.jsonl", self.hooks.show
        return Trainer(
            algorithm,
            settings,
            phase=phase,
            checkpoints=Checkpoints(self.folder / "checkpoints", phase, settings.keep_last, named, note=note),
            callbacks=standard_callbacks(settings, log=log, on_progress=on_progress, monitor=watch, score=judge),
            strategy=self.parallel,
            should_stop=self.hooks.stop,
        )
