"""Matching models and their distillation into one-step generators.

A matching model is a coupling (who is paired with whom), an interpolant (how a pair is joined) and an objective (which linear functional
of the latents the network predicts); a distillation turns a teacher trained for one matching model into a generator that needs one
evaluation. Nothing heavy is imported until it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matchlib.algebra.coupling import Coupling
    from matchlib.algebra.interpolant import Interpolant, ScheduledInterpolant
    from matchlib.algebra.model import MatchingModel
    from matchlib.algebra.objective import Objective
    from matchlib.distillation.student import Student
    from matchlib.fields.teacher import Teacher
    from matchlib.plugins.losses import RealUID
    from matchlib.registry import (
        couplings,
        datasets,
        families,
        interpolants,
        losses,
        metrics,
        networks,
        objectives,
        samplers,
        students,
    )
    from matchlib.runs.api import distill, train
    from matchlib.runs.pipeline import load
    from matchlib.training.trainer import Trainer

__version__ = "0.1.0"

_HOMES = {
    "Batch": "matchlib.algebra.records",
    "Condition": "matchlib.algebra.records",
    "Coupling": "matchlib.algebra.coupling",
    "Interpolant": "matchlib.algebra.interpolant",
    "MatchingModel": "matchlib.algebra.model",
    "Objective": "matchlib.algebra.objective",
    "RealUID": "matchlib.plugins.losses",
    "ScheduledInterpolant": "matchlib.algebra.interpolant",
    "Student": "matchlib.distillation.student",
    "Teacher": "matchlib.fields.teacher",
    "Trainer": "matchlib.training.trainer",
    "couplings": "matchlib.registry",
    "datasets": "matchlib.registry",
    "distill": "matchlib.runs.api",
    "families": "matchlib.registry",
    "interpolants": "matchlib.registry",
    "load": "matchlib.runs.pipeline",
    "losses": "matchlib.registry",
    "metrics": "matchlib.registry",
    "networks": "matchlib.registry",
    "objectives": "matchlib.registry",
    "samplers": "matchlib.registry",
    "students": "matchlib.registry",
    "train": "matchlib.runs.api",
}

__all__ = [
    "Coupling",
    "Interpolant",
    "MatchingModel",
    "Objective",
    "RealUID",
    "ScheduledInterpolant",
    "Student",
    "Teacher",
    "Trainer",
    "couplings",
    "datasets",
    "distill",
    "families",
    "interpolants",
    "load",
    "losses",
    "metrics",
    "networks",
    "objectives",
    "samplers",
    "students",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "adapters":
        return importlib.import_module("matchlib.adapters")
    if name not in _HOMES:
        raise AttributeError(f"module 'matchlib' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "adapters"})
