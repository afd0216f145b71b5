"""Tasks: how a field, or a student and its critic, are trained."""

from __future__ import annotations

from matchlib.registry import tasks
from matchlib.training.task import DistillationTask, MatchingTask

__all__ = ["DistillationTask", "MatchingTask"]

tasks.register("matching")(MatchingTask)
tasks.register("distillation")(DistillationTask)
