"""A run: components and a folder. It is a list of phases, and a phase whose result is there is skipped: resuming is running again."""

from __future__ import annotations

import copy
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.data.dataset import Dataset, data_digest
from matchlib.data.stored import digest_of
from matchlib.distillation.defaults import TEACHER_LR_SCALE, learning_rate
from matchlib.distillation.distillation import Distillation
from matchlib.errors import ArtifactError, DivergedError, Interrupted
from matchlib.evaluation.doctor import examine
from matchlib.evaluation.features import OwnFeatures, own_features
from matchlib.evaluation.pictures import drawn
from matchlib.evaluation.reference import Reference
from matchlib.evaluation.report import evaluate
from matchlib.evaluation.score import key_of, reference_of, scores
from matchlib.evaluation.work import Work
from matchlib.fields.preconditioned import ExactField
from matchlib.fields.teacher import Teacher
from matchlib.io import cache_folder, lock, read_tensors, unlock
from matchlib.registry import file_of, metrics, tasks, trackers
from matchlib.runs.answers import check_answers, save_answers
from matchlib.runs.artifact import CONFIG, WEIGHTS, ArtifactConfig, describe_model, load_artifact, save_artifact, save_average, versions
from matchlib.runs.build import NOT_OF_WEIGHTS, device_of, settings_digest
from matchlib.runs.components import Components
from matchlib.runs.data_record import record_data
from matchlib.runs.exhibit import Exhibit, description, exhibit, machine, peak_memory
from matchlib.runs.method import method_of
from matchlib.runs.page.document import PAGE, write_page
from matchlib.runs.pipeline import Pipeline, with_teacher_at
from matchlib.runs.record import group
from matchlib.runs.settings import RunSettings, plain, write_config
from matchlib.training.callbacks import Progress, ProxyScoring, standard_callbacks
from matchlib.training.checkpoint import Checkpoints, step_of
from matchlib.training.distributed import SingleProcess, init_distributed, strategy
from matchlib.training.lora import merge, share
from matchlib.training.monitor import DistillationMonitor, Monitor
from matchlib.training.precision import prepare
from matchlib.training.random import Streams
from matchlib.training.settings import EngineSettings, TrainerSettings
from matchlib.training.task import Learner, Task
from matchlib.training.tracker import TrackedPhase, Tracking, numbers
from matchlib.training.trainer import Callback, Trainer

__all__ = ["PROXIES", "Run", "prepared", "watched"]

PROXIES = 1000  # samples in a score while a student is trained
SHOWN_EVERY = 2.0  # seconds between two looks at work that has no steps

logger = logging.getLogger("matchlib")
Score = Callable[[Mapping[str, nn.Module]], float]
EVALUATION, OLD_EVALUATION = "evaluation.json", "evaluation-before.json"  # in a run's folder


class Run:
    """One run and its folder.

    Args:
        settings: complete.
        components: what ``build`` made of the settings.
        folder: where results go.
        checkpoint: to go on from; None for the latest.
        on_progress: called with a Progress now and then.
        should_stop: asked after every step; True ends the run with a checkpoint.
        changed_data: whether a run goes on with other data than it began with.
        revise: returns the settings to go on with, once the teacher is there, from those so far and the seconds that it took; they are
            written into ``config.yaml``. Other steps of the student are all that it may change.

    Attributes:
        pipelines: ``teacher`` and perhaps ``student``, ready to sample, once they are made.
        seconds: that phases took, of those that were not skipped.
    """

    def __init__(
        self,
        settings: RunSettings,
        components: Components,
        folder: Path,
        *,
        checkpoint: Path | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        should_stop: Callable[[], bool] = lambda: False,
        changed_data: bool = False,
        revise: Callable[[RunSettings, float], RunSettings] | None = None,
    ) -> None:
        self.settings, self.components, self.folder, self.checkpoint = settings, components, folder, checkpoint
        self.changed_data, self.revise = changed_data, revise
        if checkpoint is not None and all(step_of(checkpoint, phase) is None for phase in ("teacher", "student")):
            raise ArtifactError(f"{checkpoint} is no checkpoint of a run: they are {folder / 'checkpoints'}/PHASE-STEP.safetensors")
        self.device = init_distributed(device_of(settings.device))
        self.streams = Streams(settings.seed, self.device)
        self._strategies = {phase: strategy(settings.engine_of(phase).parallel) for phase in ("teacher", "student")}
        self.on_progress, self.should_stop = on_progress, should_stop
        self.pipelines: dict[str, Pipeline] = {}
        self.seconds: dict[str, float] = {}
        self._trackings: list[Tracking] = []  # of the latest phase
        self._shown: dict[str, Tensor] = {}  # the teacher's part of what the page shows

    def execute(self) -> dict[str, Any]:
        """Runs every phase that is not done and returns the evaluation.

        Raises:
            Interrupted: ``should_stop`` said so; a checkpoint is written.
            DivergedError: training stopped itself.
            DataError: the data have changed since the run began.
        """
        processes = self._processes("student")
        processes.on_main_process(lambda: lock(self.folder))
        try:
            processes.on_main_process(lambda: record_data(self.folder, self.components.data, changed=self.changed_data))
            result = self._execute()
            if not self._trackings:  # the last phase was done before
                self._track("student" if self.components.distillation else "teacher", done=True)
            self._report(self.pipelines)
            for tracking in self._trackings:
                tracking.scalars(dict(numbers({"evaluation": result})))
            return result
        except (Interrupted, DivergedError):
            self._report({})
            raise
        finally:
            self._close_trackings()
            unlock(self.folder)

    def _execute(self) -> dict[str, Any]:
        config = self.components.config
        if self._processes("student").rank == 0:
            logger.info("data: %s", self.components.data.summary())
        modules: dict[str, Any] = {"teacher": self._phase("teacher", self._make_teacher)}
        if self.settings.command == "distill":
            if config.guidance != 1.0:
                logger.info(GUIDED, config.guidance)
            if self.revise is not None:
                self.settings = self.revise(self.settings, self.seconds["teacher"])
                write_config(self.folder, self.settings)
            modules["student"] = self._phase("student", self._train_student)
        self.pipelines = {kind: Pipeline(config, module, self.device, data=self.components.data) for kind, module in modules.items()}
        return self.evaluate()

    def train(self, phase: str) -> None:
        """Trains ``teacher`` or ``student`` from where its last checkpoint is, and saves no more than checkpoints."""
        {"teacher": self._train_teacher, "student": self._train_student}[phase]()

    def evaluate(self) -> dict[str, Any]:
        """Scores what ``execute`` made, and returns and writes the evaluation."""
        logger.info("evaluation: sampling and scoring")
        begin = time.perf_counter()
        s, processes = self.settings, self._processes("student")
        work = watched(self.on_progress if processes.rank == 0 else None, self.should_stop if processes.size == 1 else None)
        pipelines = with_teacher_at(self.pipelines, s.evaluation.teacher_steps)
        report = evaluate(self.folder, pipelines, self.components.data, s.evaluation, s.seed, processes, device=self.device, work=work)
        self.seconds["scoring"] = time.perf_counter() - begin
        return report

    def _phase(self, kind: str, make: Callable[[], tuple[ArtifactConfig, nn.Module]]) -> Any:
        """Returns the module in the run's folder, made and saved first if it is not there."""
        target, processes = self.folder / kind, self._processes(kind)
        if processes.on_main_process((target / CONFIG).exists):
            config, saved = load_artifact(target, teacher=self.components.teacher)
            if config.settings != settings_digest(self.settings, kind):
                raise ArtifactError(f"{target} was made with other settings than {self.folder / 'config.yaml'} has; choose another --out")
            if self.checkpoint is not None and step_of(self.checkpoint, kind) is not None:
                raise ArtifactError(
                    f"{target} is finished, so {self.checkpoint} would not be used: leave --checkpoint out, or move {target} away to train "
                    f"the {kind} again from there"
                )
            return self._saved_teacher(saved, config, target) if kind == "teacher" else saved
        processes.on_main_process(self._set_scores_aside)
        begin = time.perf_counter()
        config, module = make()
        self.seconds[kind] = time.perf_counter() - begin

        def save() -> None:
            if kind == "teacher" and self.components.finished:
                save_answers(target, self.components.teacher, config.network_spec)
            save_artifact(target, config, module)

        processes.on_main_process(save)
        return module

    def _set_scores_aside(self) -> None:
        """Renames an evaluation of what is trained anew, whose scores are no longer those of the run."""
        scores = self.folder / EVALUATION
        if scores.exists():
            logger.info("%s is of what was there before: it is kept as %s", scores, OLD_EVALUATION)
            scores.replace(self.folder / OLD_EVALUATION)

    def _processes(self, phase: str) -> SingleProcess:
        return self._strategies[phase]

    # -- the teacher -------------------------------------------------------------------------------------------------------

    def _saved_teacher(self, saved: nn.Module, config: ArtifactConfig, target: Path) -> Teacher:
        """Returns the run's teacher with the weights that were saved.

        Raises:
            ArtifactError: it is a finished one, and has other weights, another model or other answers now.
        """
        teacher, weights = self.components.teacher, saved.state_dict()
        if not self.components.finished:
            teacher.load_state_dict(weights)
            return teacher
        now = teacher.state_dict()
        changed = next((name for name in now if name not in weights or not torch.equal(now[name].cpu(), weights[name].cpu())), None)
        if changed is not None:
            raise ArtifactError(
                f"the teacher {self.settings.teacher.name} has other weights than {target}, with which the run began ({changed}): "
                "give that one again, or choose another --out"
            )
        if describe_model(config.model) != describe_model(self.components.config.model):
            raise ArtifactError(f"the teacher has another model than {target / CONFIG}: give that one again, or choose another --out")
        check_answers(target, teacher, config.network_spec)
        return teacher

    def _make_teacher(self) -> tuple[ArtifactConfig, nn.Module]:
        """Returns the finished teacher: given, from the cache, or trained."""
        config, teacher = self.components.config, self.components.teacher
        if self.components.finished:
            logger.info("teacher: taken from %s", self.settings.teacher.name)
            if self.settings.teacher.examine and config.network.get("name") is None:
                self._processes("teacher").on_main_process(lambda: self._examine(teacher))
            return config, teacher
        cached, processes = cache_folder() / "teachers" / self._teacher_key(), self._processes("teacher")
        processes.on_main_process(lambda: None)  # nobody writes there before everyone has read
        known = self._read_cached(cached, teacher)
        if not processes.any(known is None):  # caches may be several, one on each machine
            teacher.load_state_dict(known or {})
            logger.info("teacher: taken from the cache, %s", cached)
            return config, teacher
        self._train_teacher()
        try:
            processes.on_main_process(lambda: save_artifact(cached, config, teacher))
        except ArtifactError as error:
            logger.warning("teacher: not cached (%s)", error)
        return config, teacher

    def _examine(self, teacher: Teacher) -> None:
        """Says what is likely wrong with a teacher that was made elsewhere, before anything is trained on it."""
        data, stated = self.components.training_data, copy.copy(teacher.to(self.device))
        stated.normalization = (data.shift, data.scale)
        work = watched(self.on_progress, self.should_stop if self._processes("teacher").size == 1 else None, "examining")
        on_part = partial(work.on_part, "asking the teacher")
        diagnosis = examine(stated, data, on_progress=on_part)
        for mistake in diagnosis.mistakes:
            logger.warning(MISTAKEN, mistake)
        if not diagnosis.mistakes:
            logger.info("teacher: examined, no mistake found")

    @staticmethod
    def _read_cached(folder: Path, teacher: Teacher) -> dict[str, Tensor] | None:
        """Returns the teacher's weights in a folder of the cache; None where there are none, or others."""
        try:
            tensors = read_tensors(folder / WEIGHTS)[0]
        except ArtifactError:  # not there, or damaged
            return None
        return tensors if shapes_of(tensors) == shapes_of(teacher.state_dict()) else None

    def _teacher_key(self) -> str:
        """Names the teacher of these settings in the cache: a digest of everything that its weights depend on."""
        config = self.components.config.to_json()
        for key in ("sampler", "data", "guidance", "guidance_interval", "defaults", "settings"):
            del config[key]
        training = self.settings.teacher.training.model_dump(exclude=set(NOT_OF_WEIGHTS))
        shapes = shapes_of(self.components.teacher.state_dict())
        text = json.dumps([config, training, self.device.type, shapes], sort_keys=True, default=str)
        data = self.components.data
        kept = "" if data.stored is None else data.stored.digest
        about = text + kept + " flipped" * data.flip + self._code()
        return data_digest(about.encode(), data.train.data, data.train.source, data.train.label)

    def _code(self) -> str:
        """Returns a digest of the files in which what a teacher is trained by is written, plugins of the user's own among it."""
        model, field = self.components.config.model, self.components.teacher.field
        parts = [model.coupling, model.interpolant, model.objective, tasks["matching"], *field.modules()]
        files = {file_of(part if isinstance(part, type) else type(part)) for part in parts}
        return " ".join(sorted(digest_of(file) for file in files if file is not None))

    def _train_teacher(self) -> None:
        training, config, field = self.settings.teacher.training, self.components.config, self.components.teacher.field
        if isinstance(field, ExactField):
            field.fit(self.components.data.train)
            return
        field.train().requires_grad_(True)
        matching: Any = tasks["matching"]
        task: Task = matching(
            Learner(field, training.lr or TEACHER_LR_SCALE * learning_rate(field), training.betas, training.ema),
            config.model,
            self.components.training_data.compact().to(self.device),
            self.streams,
            batch_size=training.batch_size,
            label_dropout=training.label_dropout,
            field=self._place(field, "teacher"),
        )
        averaged = self._trainer(task, training, "teacher").fit()["field"]
        self.components.teacher.field = averaged.eval().requires_grad_(False)

    # -- the student -------------------------------------------------------------------------------------------------------

    def _train_student(self) -> tuple[ArtifactConfig, nn.Module]:
        t, parts, teacher = self.settings.trainer, self.components.distillation, self.components.teacher
        assert parts is not None, "a run that distils has the components for it"
        for note in (*parts.take_weights(teacher), *parts.adapt()):
            logger.info(note)
        frozen = self._place(copy.deepcopy(teacher), "student", frozen=True)
        modules = self._place(parts.student, "student"), self._place(parts.critic, "student")
        for module in (parts.critic, frozen):  # what adapters leave frozen is kept once
            share(module, parts.student)
        engine = t.engine
        distillation = Distillation(frozen, *modules, parts.loss, parts.times, two_pass=engine.split, joint_forward=engine.joint_forward)
        data = self.components.training_data.compact().to(self.device)
        more = {"critic_steps": parts.critic_steps, "strategy": self._processes("student")}
        task = method_of(t, distillation, parts.learners(t), data, self.streams, **more)
        monitor, every = self._monitor(distillation, data), self.settings.evaluation.every
        scoring = ProxyScoring(self._scores_of(PROXIES), every) if every else None
        trainer = self._trainer(task, t, "student", monitor, self._checkpoint_score(), scoring)
        student = merge(trainer.fit()["student"])
        for decay, module in trainer.averages("student").items():
            self._save_average(decay, merge(module))
        return replace(parts.config, settings=settings_digest(self.settings, "student")), student

    def _save_average(self, decay: float, module: nn.Module) -> None:
        self._processes("student").on_main_process(lambda: save_average(self.folder / "student", decay, module))

    def _monitor(self, distillation: Distillation, data: Dataset) -> DistillationMonitor:
        @cache
        def classifier() -> OwnFeatures:
            processes, dataset = self._processes("student"), self.components.data
            work = watched(self.on_progress if processes.rank == 0 else None, self.should_stop if processes.size == 1 else None)
            processes.on_main_process(lambda: own_features(dataset, self.device, work=work).name)  # once, for the cache
            return own_features(dataset, self.device, work=work)

        t = self.settings.trainer
        if 0 < t.monitor_every <= t.steps:
            classifier()  # before the first step, where an interruption loses nothing
        return DistillationMonitor(distillation, data, self.streams, steps=t.steps, classifier=classifier)

    def _checkpoint_score(self) -> Score | None:
        """What scores checkpoints: a metric of samples, as many as there are held-out data, always from the same random numbers."""
        name = self.settings.trainer.keep_best_by
        if name is None:
            return None
        scores_of = self._scores_of(None, (name,))
        return lambda modules: -metrics[name].better * scores_of(modules)[key_of(name)]

    def _scores_of(self, most: int | None, names: tuple[str, ...] | None = None) -> Callable[[Mapping[str, nn.Module]], dict[str, float]]:
        """Returns what scores a student, by the evaluation's protocol and always from the same random numbers.

        Args:
            most: samples at most; None for as many as the evaluation takes.
            names: of metrics; None for those of the evaluation.
        """
        e, processes, reference = self.settings.evaluation, self._processes("student"), self._reference(most)

        def scored(modules: Mapping[str, nn.Module]) -> dict[str, float]:
            pipeline = Pipeline(self.components.config, modules["student"], self.device, data=self.components.data)  # type: ignore[arg-type]
            samples = pipeline.sample_batch(reference.size, seed=self.settings.seed, processes=processes).data
            samples = samples.clamp(*self.components.data.model_limits) if e.clip_samples else samples
            result: dict[str, float] = processes.on_main_process(lambda: scores(reference, samples, names or e.metrics))
            return result

        return scored

    def _reference(self, most: int | None) -> Reference:
        """What samples are compared with, ``most`` of them at most."""
        e = self.settings.evaluation
        size = e.samples if most is None else min(e.samples or most, most)
        return reference_of(self.components.data, samples=size, subset=e.subset, extractor=e.extractor, device=self.device)

    # -- the page ----------------------------------------------------------------------------------------------------------

    def _report_checkpoint(self, trainer: Trainer) -> None:
        """Writes the page while a phase is trained; of the student with samples of its averaged weights."""
        pipelines: dict[str, Pipeline] = {}
        if trainer.phase == "student":
            try:
                student: Any = trainer.states["student"].ema.copy()
                pipelines["student"] = Pipeline(self.components.config, student, self.device, data=self.components.data)
            except Exception as error:  # no memory for a copy, say: the page goes without new samples
                logger.warning("%s has no new samples: %s: %s", self.folder / PAGE, type(error).__name__, error)
        self._report(pipelines)

    def _report(self, pipelines: Mapping[str, Pipeline]) -> None:
        """Writes ``report.html`` into the folder of a run that was started; what goes wrong with it is a warning.

        Args:
            pipelines: of which samples are drawn; that of the teacher may be left out.
        """
        processes = self._processes("student" if self.components.distillation else "teacher")
        error = processes.on_main_process(lambda: self._write_page(pipelines))
        if error and processes.rank == 0:
            logger.warning("%s was not written: %s", self.folder / PAGE, error)

    def _write_page(self, pipelines: Mapping[str, Pipeline]) -> str:
        """Writes the page, and returns what went wrong."""
        if not (self.folder / "config.yaml").is_file():  # steps that are only measured
            return ""
        try:
            shown = self._exhibit(pipelines)
            shown.write(self.folder)
            write_page([self.folder])
            if self._trackings and pipelines:
                image = drawn({kind: x.numpy() for kind, x in shown.tensors.items() if "/" not in kind}, self.components.data.shown_limits)
                for tracking in self._trackings:
                    tracking.picture("samples", image)
        except Exception as error:  # whatever it is, the run is worth more than its page
            return f"{type(error).__name__}: {error}"
        return ""

    def _exhibit(self, pipelines: Mapping[str, Pipeline]) -> Exhibit:
        """What the page shows and no other file holds; without pipelines, the samples that were drawn last."""
        before, parts, data = Exhibit.read(self.folder), self.components, self.components.data
        tensors = dict(before.tensors) or exhibit({}, data, self.settings.seed)
        if pipelines:
            self._shown = self._shown or self._teacher_samples()
            others = {kind: pipeline for kind, pipeline in pipelines.items() if kind != "teacher"}
            tensors |= self._shown | exhibit(others, data, self.settings.seed)
        modules: dict[str, nn.Module] = {"teacher": parts.teacher}
        if parts.distillation is not None:
            modules |= {"student": parts.distillation.student, "critic": parts.distillation.critic}
        about = {
            **description(parts.config, modules, parts.data.shown_limits),
            "machine": machine(self.device),
            "memory": peak_memory(self.device),
        }
        return Exhibit(tensors, {**about, "seconds": {**group(before.about, "seconds"), **self.seconds}})

    def _teacher_samples(self) -> dict[str, Tensor]:
        """The teacher's part of the page; the teacher is left on the device where it was."""
        teacher = self.components.teacher
        place = next((weight.device for weight in teacher.parameters()), None)
        pipeline = Pipeline(self.components.config, teacher, self.device, data=self.components.data)
        try:
            return exhibit({"teacher": pipeline}, self.components.data, self.settings.seed)
        finally:
            teacher.to(place)

    # -- trackers ----------------------------------------------------------------------------------------------------------

    def _track(self, phase: str, *, done: bool = False) -> list[Tracking]:
        """Returns what shows a phase to the trackers that the settings name; those of the phase before are closed.

        Args:
            done: whether the phase was trained before.
        """
        self._close_trackings()
        if self._processes(phase).rank == 0:
            training = self.settings.teacher.training if phase == "teacher" else self.settings.trainer
            place = TrackedPhase(self.folder, phase, plain(self.settings), training.steps if done else 0)
            self._trackings = [Tracking(trackers.build(spec), spec["name"], place, logger.warning) for spec in training.trackers]
        return self._trackings

    def _close_trackings(self) -> None:
        for tracking in self._trackings:
            tracking.close()
        self._trackings = []

    # -- the trainer -------------------------------------------------------------------------------------------------------

    def _place(self, module: nn.Module, phase: str, *, frozen: bool = False) -> Any:
        """Moves a module to the device, prepares its networks and shares it among the processes."""
        return self._processes(phase).wrap(prepared(module.to(self.device), self.settings.engine_of(phase), frozen=frozen))

    def _trainer(
        self,
        task: Task,
        settings: TrainerSettings,
        phase: str,
        monitor: Monitor | None = None,
        score: Score | None = None,
        scoring: Callback | None = None,
    ) -> Trainer:
        note, digest = {"versions": json.dumps(versions())}, settings_digest(self.settings, phase)
        named = self.checkpoint if self.checkpoint is not None and step_of(self.checkpoint, phase) is not None else None
        return Trainer(
            task,
            settings,
            phase=phase,
            checkpoints=Checkpoints(self.folder / "checkpoints", phase, settings.keep_last, named, digest=digest, note=note),
            callbacks=standard_callbacks(
                settings,
                log=self.folder / "metrics.jsonl",
                on_progress=self.on_progress,
                monitor=monitor,
                score=score,
                scoring=scoring,
                report=self._report_checkpoint,
                trackings=self._track(phase),
                later=self.settings.trainer.steps if phase == "teacher" and self.components.distillation else 0,
            ),
            strategy=self._processes(phase),
            should_stop=self.should_stop,
        )


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor, by name."""
    return {name: tuple(x.shape) for name, x in tensors.items()}


def watched(on_progress: Callable[[Progress], None] | None, should_stop: Callable[[], bool] | None, phase: str = "scoring") -> Work:
    """Returns work that shows how far it is, every other second, and stops between parts.

    Args:
        on_progress: called with a Progress; None for nobody.
        should_stop: asked before every part; True raises ``Interrupted``.
        phase: what it is called.
    """
    begin = last = time.perf_counter()

    def on_part(what: str, done: int, total: int) -> None:
        nonlocal last
        if should_stop is not None and should_stop():
            raise Interrupted(f"interrupted while {phase} ({what})")
        now = time.perf_counter()
        if on_progress is not None and now - last > SHOWN_EVERY:
            last = now
            on_progress(Progress(phase, done, total, {}, now - begin, what))

    return Work(on_part)


def prepared(module: nn.Module, engine: EngineSettings, *, frozen: bool = False) -> nn.Module:
    """Prepares a module as the engine's settings say, in place.

    Args:
        frozen: whether it is the teacher of a student in training.
    """
    precision = (engine.teacher_precision if frozen else None) or engine.precision
    return prepare(
        module,
        precision=precision,
        compile=engine.compile,
        channels_last=engine.channels_last,
        checkpointing=engine.checkpointing,
        frozen=frozen,
    )


MISTAKEN = "teacher: a likely mistake: %s (matchlib doctor shows more; teacher.examine=false leaves this out)"
GUIDED = (
    "note: a teacher guided by %g minimises no matching loss, so the student's optimum is not its distribution and the least loss is above "
    "zero; a loss that uses real data pulls the student away from what guidance does"
)
