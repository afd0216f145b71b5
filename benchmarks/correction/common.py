"""Weak teachers of five kinds, and how students of theirs are made and scored. Every cell is cached: a rerun resumes.

Data are digits without labels (with labels the wrong class balance would be no mistake); scores use features of a classifier of the
labelled digits, 360 samples against the training split, ten draws.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # record.py

from record import CACHE, cell

import matchlib
from matchlib.cards import save_bundle
from matchlib.data import Dataset
from matchlib.distillation.teacher import Teacher
from matchlib.evaluation.evaluate import reference_of, scores
from matchlib.generator import Generator
from matchlib.recipes import recipe
from matchlib.sources import load_dataset
from matchlib.streams import Streams
from matchlib.training.algorithm import Learner
from matchlib.training.matching import Matching
from matchlib.training.trainer import Trainer, TrainerSettings

PLACE = CACHE / "correction"
METRICS = ("frechet", "frechet-raw", "sliced-wasserstein", "coverage", "recall", "nearest-ratio")
DRAWS = 10
QUICK = {
    "trainer.batch": 128,
    "evaluation.draws": 1,
    "evaluation.metrics": ("frechet-raw",),
    "teacher.sampler": {"name": "ode", "steps": 25},
}
SMALL = {"name": "mlp", "width": 32, "depth": 3}  # 31,520 of the default network's 331,520 weights


@cache
def digits() -> Dataset:
    """Returns the digits with their labels, which only the scores use."""
    return load_dataset("digits")


def _tenth(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x[rng.permutation(len(x))[: len(x) // 10]]


def _unbalanced(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Digits below 5 six times as often as the others."""
    return x[rng.choice(len(x), len(x), p=(w := np.where(y < 5, 6.0, 1.0)) / w.sum())]


def _coarse(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three grey values instead of seventeen."""
    return np.round(x / 8) * 8


KINDS: dict[str, tuple[Callable[..., np.ndarray] | None, dict[str, Any]]] = {
    "stopped early": (None, {"teacher.training.steps": 100}),
    "a tenth of the weights": (None, {"teacher.network": SMALL, "teacher.training.steps": 400}),
    "a tenth of the data": (_tenth, {}),
    "wrong class balance": (_unbalanced, {}),
    "coarse data": (_coarse, {}),
    "good": (None, {"teacher.training.steps": 2000}),
}  # what is done to the data, and settings of the training


def data_of(kind: str, seed: int) -> Dataset:
    """Returns the data of a weak teacher, all of them from the training split of the digits."""
    spoil, full = KINDS[kind][0], digits()
    if spoil is None:
        return full.without_labels()
    assert full.train.label is not None
    x = full.in_data_units(full.train.data).numpy()
    made = spoil(x, full.train.label.numpy(), np.random.default_rng(seed))
    return Dataset.from_arrays(kind, made, held_out=np.arange(4))  # hardly any: nothing is scored on them


def score(generator: Generator, seed: int = 0) -> dict[str, float]:
    """Returns the scores of ten draws, all at the size of the held-out data."""
    full = digits()
    reference, _ = reference_of(full)
    samples = generator.in_data_units(generator.draw(DRAWS * reference.size, seed=seed).data)
    return scores(reference, (samples - full.shift) / full.scale, METRICS)


def floor() -> dict[str, float]:
    """Returns the scores of held-out data."""
    full = digits()
    return scores(reference_of(full)[0], full.held_out.data, METRICS)


def teacher(family: str, kind: str, seed: int) -> tuple[Path, dict[str, Any]]:
    """Returns the folder and the scores of a weak teacher, trained if it is not there."""
    folder = PLACE / f"teacher-{family}-{kind.replace(' ', '-')}-{seed}"
    settings = {**QUICK, **KINDS[kind][1]}

    def make() -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.perf_counter()
        made = matchlib.train(family, data_of(kind, seed), seed=seed, out=folder, settings=settings)
        return {"seconds": time.perf_counter() - begin, **score(made)}

    found = cell({"benchmark": "correction", "teacher": family, "kind": kind, "seed": seed, "settings": settings}, make)
    if not (folder / "teacher").exists():
        make()
    return folder, found


def own_networks(kind: str) -> dict[str, Any]:
    """Student and critic of a teacher that is too small have the usual size."""
    return {"student.network": {"name": "mlp"}, "trainer.critic_network": {"name": "mlp"}} if "weights" in kind else {}


def arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings as arguments of ``matchlib.distill``."""
    return {"recipe": settings.get("recipe"), "settings": {key: value for key, value in settings.items() if key != "recipe"}}


def student(family: str, kind: str, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the scores of a student of a weak teacher.

    Args:
        settings: by dotted path.
    """
    settings = {**QUICK, **own_networks(kind), **settings}

    def make() -> dict[str, Any]:
        folder = PLACE / f"student-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        from_, _ = teacher(family, kind, seed)
        begin = time.perf_counter()
        made = matchlib.distill(from_, digits().without_labels(), seed=seed, out=folder, **arguments(settings))
        seconds = time.perf_counter() - begin
        shutil.rmtree(folder)
        return {"seconds": seconds, **score(made)}

    named = {"recipe": recipe(settings["recipe"])} if "recipe" in settings else {}
    return cell({"benchmark": "correction", "student": family, "kind": kind, "seed": seed, "settings": settings | named}, make)


def evaluations(turns: int, *, real: bool) -> float:
    """Returns network evaluations a sample of so many turns, a backward pass counted as two: what equal compute means here.

    A critic turn: the student, the teacher, and the critic with its gradient, the latter two again at real points. A student turn: all
    three with a gradient.
    """
    critic = 1 + (1 + 3) * (2 if real else 1)
    return turns / 2 * (critic + 9)


def further(family: str, kind: str, seed: int, settings: dict[str, Any], steps: int) -> dict[str, Any]:
    """Returns the scores of a student of a weak teacher that was trained on with all the data.

    Args:
        settings: of the student.
        steps: of the teacher's training, at the batch of the student's.
    """
    settings = {**QUICK, **own_networks(kind), **settings}

    def make() -> dict[str, Any]:
        folder = PLACE / f"student-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        loaded = matchlib.load(teacher(family, kind, seed)[0], of="teacher")
        begin = time.perf_counter()
        card, weak = loaded.card, loaded.module
        data = digits().without_labels().in_units(card.data["shift"], card.data["scale"])
        learner = Learner(weak.field.train().requires_grad_(True), 1e-3, (0.9, 0.999), 0.999)
        algorithm = Matching(learner, card.model, data, Streams(seed, torch.device("cpu")), batch=settings["trainer.batch"])
        better = Trainer(algorithm, TrainerSettings(steps, decay=0.5)).fit()["field"]
        save_bundle(folder / "teacher", card, Teacher(better, card.model, card.moments))
        of_teacher = score(matchlib.load(folder / "teacher"))
        made = matchlib.distill(folder, digits().without_labels(), seed=seed, out=folder / "run", **arguments(settings))
        seconds = time.perf_counter() - begin
        shutil.rmtree(folder)
        return {"seconds": seconds, **score(made), "of_teacher": of_teacher}

    key = {"benchmark": "correction", "further": family, "kind": kind, "seed": seed, "settings": settings, "steps": steps}
    return cell(key, make)
