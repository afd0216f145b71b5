"""What the commands do, from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matchlib.data.dataset import Dataset
from matchlib.distillation.loss import DistillationLoss
from matchlib.fields.teacher import Teacher
from matchlib.registry import losses
from matchlib.runs.artifact import ArtifactConfig, dataset_of
from matchlib.runs.folder import start_run
from matchlib.runs.pipeline import Pipeline
from matchlib.runs.recipes import recipe as read_recipe
from matchlib.runs.run import Hooks
from matchlib.runs.settings import RunSettings, at, from_tree, merge, to_tree
from matchlib.runs.teachers import card_of, data_piece

__all__ = ["distill", "settings_of", "train"]


def settings_of(command: str, changes: Mapping[str, Any], named: str | None = None) -> RunSettings:
    """Returns the defaults, those of a recipe laid over them, with ``{"dotted.path": value}`` changed; None leaves a default.

    Raises:
        UnknownNameError: there is no such recipe, or a setting that no record has.
    """
    tree = {**to_tree(RunSettings(command=command))}
    if named is not None:
        merge(tree, read_recipe(named))
    for path, value in changes.items():
        if value is None:
            continue
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return from_tree(tree)


def train(
    family: str = "flow",
    data: str | Path | Dataset = "digits",
    *,
    steps: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    hooks: Hooks | None = None,
) -> Pipeline:
    """Trains a teacher, as ``matchlib train --family`` does.

    Args:
        family: registered name.
        data: registered name, path, or a data set.
        steps: of the optimiser.
        out: folder of the run; None for ``runs/DATE-NAME``.
        settings: further settings by dotted path, as in ``--set``.

    Returns:
        The teacher, ready to sample.
    """
    changes = {"teacher.name": family, "teacher.training.steps": steps, "seed": seed, "device": device, **(settings or {})}
    made = settings_of("train", changes | _named(data, out))
    run = start_run(made, hooks, dataset=data if isinstance(data, Dataset) else None)
    run.execute()
    return run.generators["teacher"]


def distill(
    teacher: str | Path | Teacher = "flow",
    data: str | Path | Dataset = "digits",
    student: str | Path = "onestep",
    loss: str | DistillationLoss | None = None,
    *,
    recipe: str | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    settings: Mapping[str, Any] | None = None,
    hooks: Hooks | None = None,
) -> Pipeline:
    """Distils a teacher, as ``matchlib distill`` does.

    Args:
        teacher: name of a family (its default teacher is trained, or taken from the cache), folder of a run, or a Teacher.
        data: registered name, path, or a data set.
        student: registered name, or folder of a run whose student goes on.
        loss: registered name, or a loss; None, or the name of the recipe's own, for that of the settings.
        recipe: named settings, overruled by what else is given.
        steps: turns of critic and student.
        out: folder of the run; None for ``runs/DATE-NAME``.
        settings: further settings by dotted path, as in ``--set``.

    Returns:
        The student, ready to sample.
    """
    if recipe is not None and loss == at(read_recipe(recipe), "loss.name"):
        loss = None
    spec = {"name": loss} if isinstance(loss, str) else None if loss is None else losses.describe(loss)
    changes = {
        "teacher.name": "python" if isinstance(teacher, Teacher) else str(teacher),
        "student.name": str(student),
        "loss": spec,
        "trainer.steps": steps,
        "seed": seed,
        "device": device,
        **(settings or {}),
    }
    made = settings_of("distill", changes | _named(data, out), recipe)
    given = (_card(teacher, data, made), teacher) if isinstance(teacher, Teacher) else None
    run = start_run(made, hooks, dataset=data if isinstance(data, Dataset) else None, teacher=given)
    run.execute()
    return run.generators["student"]


def _named(data: str | Path | Dataset, out: str | Path | None) -> dict[str, Any]:
    name = data.name if isinstance(data, Dataset) else str(data)
    return {"data.name": name, "out": None if out is None else str(out)}


def _card(teacher: Teacher, data: str | Path | Dataset, settings: RunSettings) -> ArtifactConfig:
    return card_of(teacher, data if isinstance(data, Dataset) else dataset_of(data_piece(settings.data)), settings)
