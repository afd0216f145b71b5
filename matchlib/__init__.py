"""Matching models and their distillation into one-step generators.

A matching model is a coupling (who is paired with whom), an interpolant (how a pair is joined) and an objective (which linear functional
of the latents the network predicts). A distillation turns a teacher trained for one matching model into a generator that needs one
evaluation. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matchlib import adapters as adapters
    from matchlib.algebra.coupling import Coupling as Coupling
    from matchlib.algebra.interpolant import Interpolant as Interpolant
    from matchlib.algebra.interpolant import ScheduledInterpolant as ScheduledInterpolant
    from matchlib.algebra.model import MatchingModel as MatchingModel
    from matchlib.algebra.model import Moments as Moments
    from matchlib.algebra.objective import Objective as Objective
    from matchlib.algebra.records import Batch as Batch
    from matchlib.algebra.records import Condition as Condition
    from matchlib.algebra.rows import Coefficients as Coefficients
    from matchlib.algebra.rows import Row as Row
    from matchlib.algebra.times import TimeDistribution as TimeDistribution
    from matchlib.data.codec import Codec as Codec
    from matchlib.data.dataset import Dataset as Dataset
    from matchlib.data.prepare import prepare as prepare
    from matchlib.distillation.defaults import Defaults as Defaults
    from matchlib.distillation.distillation import Distillation as Distillation
    from matchlib.distillation.family import Family as Family
    from matchlib.distillation.loss import BilinearLoss as BilinearLoss
    from matchlib.distillation.loss import DistillationLoss as DistillationLoss
    from matchlib.distillation.loss import Quadratic as Quadratic
    from matchlib.distillation.predictions import Predictions as Predictions
    from matchlib.distillation.student import Student as Student
    from matchlib.errors import MatchlibError as MatchlibError
    from matchlib.exporting.api import export as export
    from matchlib.exporting.exporter import Exporter as Exporter
    from matchlib.fields.preconditioned import NetworkSpec as NetworkSpec
    from matchlib.fields.preconditioned import Preconditioned as Preconditioned
    from matchlib.fields.sampler import Sampler as Sampler
    from matchlib.fields.teacher import Teacher as Teacher
    from matchlib.plugins.losses import FGM as FGM
    from matchlib.plugins.losses import IBMD as IBMD
    from matchlib.plugins.losses import UID as UID
    from matchlib.plugins.losses import RealUID as RealUID
    from matchlib.plugins.losses import SiD as SiD
    from matchlib.registry import codecs as codecs
    from matchlib.registry import couplings as couplings
    from matchlib.registry import datasets as datasets
    from matchlib.registry import exports as exports
    from matchlib.registry import families as families
    from matchlib.registry import interpolants as interpolants
    from matchlib.registry import losses as losses
    from matchlib.registry import metrics as metrics
    from matchlib.registry import networks as networks
    from matchlib.registry import objectives as objectives
    from matchlib.registry import samplers as samplers
    from matchlib.registry import students as students
    from matchlib.registry import tasks as tasks
    from matchlib.registry import trackers as trackers
    from matchlib.runs.api import distill as distill
    from matchlib.runs.api import evaluate as evaluate
    from matchlib.runs.api import resume as resume
    from matchlib.runs.api import train as train
    from matchlib.runs.pipeline import Pipeline as Pipeline
    from matchlib.runs.pipeline import load as load
    from matchlib.runs.scoring import score as score
    from matchlib.training.settings import TrainerSettings as TrainerSettings
    from matchlib.training.task import Learner as Learner
    from matchlib.training.task import Task as Task
    from matchlib.training.trainer import Callback as Callback
    from matchlib.training.trainer import Trainer as Trainer

__version__ = "0.1.0"

_HOMES = {
    "matchlib.algebra.coupling": ("Coupling",),
    "matchlib.algebra.interpolant": ("Interpolant", "ScheduledInterpolant"),
    "matchlib.algebra.model": ("MatchingModel", "Moments"),
    "matchlib.algebra.objective": ("Objective",),
    "matchlib.algebra.records": ("Batch", "Condition"),
    "matchlib.algebra.rows": ("Coefficients", "Row"),
    "matchlib.algebra.times": ("TimeDistribution",),
    "matchlib.data.codec": ("Codec",),
    "matchlib.data.dataset": ("Dataset",),
    "matchlib.data.prepare": ("prepare",),
    "matchlib.distillation.distillation": ("Distillation",),
    "matchlib.distillation.defaults": ("Defaults",),
    "matchlib.distillation.family": ("Family",),
    "matchlib.distillation.loss": ("BilinearLoss", "DistillationLoss", "Quadratic"),
    "matchlib.distillation.predictions": ("Predictions",),
    "matchlib.distillation.student": ("Student",),
    "matchlib.errors": ("MatchlibError",),
    "matchlib.exporting.api": ("export",),
    "matchlib.exporting.exporter": ("Exporter",),
    "matchlib.fields.preconditioned": ("NetworkSpec", "Preconditioned"),
    "matchlib.fields.sampler": ("Sampler",),
    "matchlib.fields.teacher": ("Teacher",),
    "matchlib.plugins.losses": ("FGM", "IBMD", "RealUID", "SiD", "UID"),
    "matchlib.registry": (
        "codecs",
        "couplings",
        "datasets",
        "exports",
        "families",
        "interpolants",
        "losses",
        "metrics",
        "networks",
        "objectives",
        "samplers",
        "students",
        "tasks",
        "trackers",
    ),
    "matchlib.runs.api": ("distill", "evaluate", "resume", "train"),
    "matchlib.runs.pipeline": ("Pipeline", "load"),
    "matchlib.runs.scoring": ("score",),
    "matchlib.training.settings": ("TrainerSettings",),
    "matchlib.training.task": ("Learner", "Task"),
    "matchlib.training.trainer": ("Callback", "Trainer"),
}
_PUBLIC = {name: home for home, names in _HOMES.items() for name in names}
__all__ = ["adapters", *_PUBLIC]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "adapters":
        return importlib.import_module("matchlib.adapters")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'matchlib' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
