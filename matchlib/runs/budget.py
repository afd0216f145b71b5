"""What the steps of a run cost on this machine, measured on the run's own code."""

from __future__ import annotations

import copy
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from matchlib.runs.build import Components, device_of
from matchlib.runs.run import Run
from matchlib.runs.settings import RunSettings

__all__ = ["seconds_per_step"]

WARM, MEASURED = 2, 6  # steps that are left out and steps that are timed


def seconds_per_step(settings: RunSettings, components: Components, phase: str) -> float:
    """Returns the mean time of an optimiser step, in seconds, from a few steps in a folder that is thrown away.

    Args:
        phase: ``teacher`` or ``student``; the steps of student and critic count alike.
    """
    device, stamps = device_of(settings.device), list[float]()

    def stamp() -> bool:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        stamps.append(time.perf_counter())
        return False

    steps = {"steps": WARM + MEASURED, "monitor_every": 0, "log_every": 10**6, "checkpoint_every": 10**6}
    teacher = settings.teacher.model_copy(update={"training": settings.teacher.training.model_copy(update=steps)})
    short = settings.model_copy(update={"teacher": teacher, "trainer": settings.trainer.model_copy(update={**steps, "keep_best_by": None})})
    # training changes weights in place
    copied = replace(components, teacher=copy.deepcopy(components.teacher), distillation=copy.deepcopy(components.distillation))
    with tempfile.TemporaryDirectory() as folder:
        Run(short, copied, Path(folder), should_stop=stamp).train(phase)
    return (stamps[-1] - stamps[WARM - 1]) / MEASURED
