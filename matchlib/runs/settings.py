"""A run's settings: one tree of frozen records, every entry of which has a default.

A *piece* is a mapping ``{"name": registered name, setting: value, ...}``. ``None`` leaves the choice to the family.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar

from matchlib.errors import SettingError, UnknownNameError, nearest

__all__ = [
    "SPECS",
    "DataSettings",
    "DistillSettings",
    "EngineSettings",
    "EvaluationSettings",
    "RunSettings",
    "Spec",
    "StudentSettings",
    "TeacherSettings",
    "TrainingSettings",
    "at",
    "from_tree",
    "merge",
    "to_tree",
]

Spec = dict[str, Any]


@dataclass(frozen=True)
class DataSettings:
    """Which data. Further keys are settings of the registered set.

    Args:
        name: of a registered set, or a path.
        labels: whether labels that the data have are used.
        balanced: whether training draws every class equally often.
        options: settings of a registered set.
    """

    open_keys: ClassVar[bool] = True
    name: str = "digits"
    labels: bool = True
    balanced: bool = False
    options: Spec = field(default_factory=dict)


@dataclass(frozen=True)
class TrainingSettings:
    """How a teacher is trained.

    Args:
        steps: of the optimiser, >= 1.
        batch: samples a step, >= 1.
        rate: Adam's step size, > 0.
        betas: Adam's averaging constants.
        ema: decay of the averaged weights.
        label_dropout: share of the samples whose label is left out, in [0, 1); guidance needs some, 0.1 is usual.
        warmup, decay, clip, surge: see ``matchlib.training.trainer.TrainerSettings``.
    """

    steps: int = 400
    batch_size: int = 256
    lr: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    ema: float = 0.999
    label_dropout: float = 0.0
    warmup: int = 100
    lr_decay: float = 0.5
    max_grad_norm: float = math.inf
    adaptive_clip: float = math.inf


@dataclass(frozen=True)
class TeacherSettings:
    """The teacher. Further keys are settings of the family.

    Args:
        name: of a family, or the folder of a finished run.
        coupling, interpolant, objective: pieces that replace the family's own.
        network: piece; where the family's teacher is a formula, that of critic and student.
        sampler: piece; None for the family's own.
        times: ``{"t_min": ..., "t_max": ..., "log_sigma": ...}``; None for the family's own.
        sees_source: whether the field sees the source; None for the family's own choice.
        guidance: w of ``uncond + w (cond - uncond)``; None for none, or for that of the run that the teacher is taken from.
        training: how it is trained.
        options: settings of the family.
    """

    open_keys: ClassVar[bool] = True
    name: str = "flow"
    coupling: Spec | None = None
    interpolant: Spec | None = None
    objective: Spec | None = None
    network: Spec = field(default_factory=lambda: {"name": "mlp"})
    sampler: Spec | None = None
    times: Spec | None = None
    sees_source: bool | None = None
    guidance: float | None = None
    training: TrainingSettings = field(default_factory=TrainingSettings)
    options: Spec = field(default_factory=dict)


@dataclass(frozen=True)
class StudentSettings:
    """The student. Further keys are settings of the student plugin.

    Args:
        name: of a student plugin, or the folder of a finished run whose student goes on.
        network: piece for a network of the student's own; None copies the teacher's with its weights, if it has any.
        warm: whether such a network takes those of the teacher's weights that fit by name and shape.
        options: settings of the plugin.
    """

    open_keys: ClassVar[bool] = True
    name: str = "onestep"
    network: Spec | None = None
    init_from_teacher: bool = False
    options: Spec = field(default_factory=dict)


@dataclass(frozen=True)
class EngineSettings:
    """How the work is done; none of it changes what is computed but for rounding.

    Args:
        parallel: where ``torchrun`` starts several processes: ``ddp`` gives each all weights, ``fsdp`` a part of each.
        micro: samples that are worked on at once, in every process; None for its whole share of the batch.
        precision: of the networks' matrix products: ``fp32``; ``tf32``, on CUDA; or ``bf16``. States, targets and differences are fp32.
        teacher_precision: of the frozen teacher while a student is trained; with ``bf16`` its weights take half of the memory too. None for
            that of the others.
        compile: mode of ``torch.compile`` for each network: ``default``, ``reduce-overhead`` (CUDA graphs) or ``max-autotune``; None: not.
        channels_last: whether images and the weights of convolutions are laid out with channels last.
        checkpointing: whether blocks of networks are computed again in the backward pass instead of kept.
        split: ``two_pass`` of ``matchlib.distillation.distillation.Distillation``.
        joint_forward: likewise.
    """

    parallel: str = "ddp"
    micro_batch_size: int | None = None
    precision: str = "fp32"
    teacher_precision: str | None = None
    compile: str | None = None
    channels_last: bool = False
    checkpointing: bool = False
    split: bool | None = None
    joint_forward: bool | None = None


@dataclass(frozen=True)
class DistillSettings:
    """How a student is trained; every turn of critic or student is a step.

    Args:
        steps: turns in all, >= 1.
        batch: samples a turn, >= 1.
        critic_turns: before each student turn, >= 1.
        reuse: critic turns in a row that see the same generated samples, at other times and with other real data, >= 1.
        critic_network: piece for a critic that starts from scratch, where the teacher's network is too small or too slow; None copies the
            teacher's with its weights, if it has any.
        student_rate, critic_rate: Adam's step sizes; None for the family's own.
        student_factor, critic_factor: of the family's own step sizes, > 0.
        betas: Adam's averaging constants.
        ema: decay of the student's averaged weights.
        emas: decays of further averages of them, kept beside the student: ``matchlib.load(RUN, ema=DECAY)``.
        times: as in ``TeacherSettings``, for distillation; None for the family's own.
        warmup, decay, clip, surge, log_every, checkpoint_every: see ``matchlib.training.trainer.TrainerSettings``.
        keep: latest checkpoints that are kept, >= 1.
        best: a metric by which checkpoints are judged, on samples of the averaged student; the best is kept too, and the run ends with it.
            None: with the last.
        watch_every, policy: see ``matchlib.training.trainer.TrainerSettings``.
        engine: how the work is done, that of the teacher's training too.
    """

    steps: int = 3200
    batch_size: int = 256
    critic_steps: int = 1
    critic_steps_per_batch: int = 1
    critic_network: Spec | None = None
    student_lr: float | None = None
    critic_lr: float | None = None
    student_lr_scale: float = 1.0
    critic_lr_scale: float = 1.0
    betas: tuple[float, float] = (0.0, 0.99)
    ema: float = 0.999
    extra_ema_decays: tuple[float, ...] = ()
    times: Spec | None = None
    warmup: int = 100
    lr_decay: float = 0.7
    max_grad_norm: float = math.inf
    adaptive_clip: float = 3.0
    log_every: int = 100
    checkpoint_every: int = 500
    keep_last: int = 2
    keep_best_by: str | None = None
    monitor_every: int = 100
    on_alarm: str = "warn"
    engine: EngineSettings = field(default_factory=EngineSettings)


@dataclass(frozen=True)
class EvaluationSettings:
    """How samples are scored.

    Args:
        draws: number of draws of the held-out size that a score is averaged over, >= 1.
        metrics: names; None for all that apply.
        clip: whether samples are clipped to the limits of the data first, as a file of 8-bit images does.
    """

    draws: int = 10
    metrics: tuple[str, ...] | None = None
    clip_samples: bool = False


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides what a run computes, and where.

    Args:
        command: ``train`` or ``distill``.
        loss: piece; by default RealUID extrapolates from the teacher towards the data (docs/decisions.md, 7).
        seed: of every random stream.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        out: folder of the run; None for ``runs/DATE-NAME``.
    """

    command: str = "distill"
    data: DataSettings = field(default_factory=DataSettings)
    teacher: TeacherSettings = field(default_factory=TeacherSettings)
    student: StudentSettings = field(default_factory=StudentSettings)
    loss: Spec = field(default_factory=lambda: {"name": "realuid", "alpha": 2.0, "beta": 2.0, "gamma": 0.5})
    trainer: DistillSettings = field(default_factory=DistillSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    seed: int = 0
    device: str = "auto"
    out: str | None = None

    def __post_init__(self) -> None:
        if self.command not in ("train", "distill"):
            raise SettingError(f"command must be train or distill, got {self.command!r}")
        for name, value in (
            ("teacher.training.batch_size", self.teacher.training.batch_size),
            ("trainer.batch_size", self.trainer.batch_size),
            ("evaluation.draws", self.evaluation.draws),
            ("trainer.keep_last", self.trainer.keep_last),
        ):
            if value < 1:
                raise SettingError(f"{name} must be at least 1, got {value}")
        for name in ("student_lr_scale", "critic_lr_scale"):
            if not getattr(self.trainer, name) > 0:
                raise SettingError(f"trainer.{name} must be positive, got {getattr(self.trainer, name)}")
        dropout = self.teacher.training.label_dropout
        if not 0 <= dropout < 1:
            raise SettingError(f"teacher.training.label_dropout must lie in [0, 1), got {dropout}")
        if self.seed < 0:
            raise SettingError(f"seed must be at least 0, got {self.seed}")


NESTED: dict[str, type] = {
    "data": DataSettings,
    "teacher": TeacherSettings,
    "student": StudentSettings,
    "trainer": DistillSettings,
    "evaluation": EvaluationSettings,
    "training": TrainingSettings,
    "engine": EngineSettings,
}


# where in the tree a piece of which registry stands
SPECS = {
    ("teacher", "coupling"): "couplings",
    ("teacher", "interpolant"): "interpolants",
    ("teacher", "objective"): "objectives",
    ("teacher", "network"): "networks",
    ("teacher", "sampler"): "samplers",
    ("student", "network"): "networks",
    ("trainer", "critic_network"): "networks",
    ("loss",): "losses",
}


def to_tree(settings: RunSettings) -> dict[str, Any]:
    """Returns the settings as plain nested mappings, the form of ``config.yaml``; options stand beside the keys of their record."""
    return _flatten(asdict(settings))


def _flatten(tree: dict[str, Any]) -> dict[str, Any]:
    options = tree.pop("options", {})
    flat = {key: _flatten(value) if isinstance(value, dict) else _listed(value) for key, value in tree.items()}
    return flat | options


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def from_tree(tree: Mapping[str, Any], kind: type = RunSettings, where: str = "") -> Any:
    """Returns the settings that a tree describes; the inverse of ``to_tree``.

    Raises:
        UnknownNameError: a key that no record has.
    """
    known = {f.name: f for f in fields(kind) if f.name != "options"}
    values: dict[str, Any] = {}
    options: Spec = {}
    for key, value in tree.items():
        if key in known:
            nested = NESTED.get(key) if isinstance(value, Mapping) else None
            values[key] = from_tree(value, nested, f"{where}{key}.") if nested else tuple(value) if isinstance(value, list) else value
        elif getattr(kind, "open_keys", False):
            options[key] = value
        else:
            raise UnknownNameError(f"unknown setting {where}{key} (there are: {', '.join(known)}){nearest(key, known)}")
    return kind(**values, **({"options": options} if options else {}))


def at(tree: Mapping[str, Any], path: str) -> Any:
    """Returns what stands at a dotted path of a tree; None if nothing does."""
    node: Any = tree
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def merge(base: dict[str, Any], other: Mapping[str, Any], where: tuple[str, ...] = ()) -> None:
    """Lays ``other`` over ``base``, mapping by mapping; a piece of another name replaces the one before."""
    if where in SPECS and "name" in other:
        base.clear()
    for key, value in other.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge(base[key], value, (*where, key))
        else:
            base[key] = value
