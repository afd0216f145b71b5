"""What weak teachers are made of: data sets, five ways in which a teacher of theirs is wrong, and how its students are scored.

Runs see no labels (with labels the wrong class balance would be no mistake). Images are scored by features of a classifier of the labelled
data, points in the plane by the exact Wasserstein distance; every score is the mean over draws of the held-out size against the training
split, so that the score of held-out data is the floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.evaluation.score import reference_of, scores
from matchlib.runs.pipeline import Pipeline

__all__ = ["DIGITS", "TOYS", "Kind", "Task", "images", "mnist", "patches"]

Spoil = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
IMAGES = ("frechet", "frechet-raw", "sliced-wasserstein", "coverage", "recall", "nearest-ratio", "copies")
POINTS = ("w2", "sliced-wasserstein", "coverage", "recall", "nearest-ratio", "copies")


@dataclass(frozen=True)
class Kind:
    """A way to be wrong.

    Args:
        spoil: what is done to the training data, given data in data units, labels and a random generator; None for nothing.
        settings: of the teacher's run, by dotted path.
        small: whether the teacher's network is smaller than that of student and critic.
    """

    spoil: Spoil | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    small: bool = False


@dataclass(frozen=True)
class Task:
    """A data set, its weak teachers and its scores.

    Args:
        name: for files.
        load: the data, labelled where they have labels.
        kinds: of teachers, the good one among them.
        settings: of every run.
        network: of student, critic and every teacher that is not small.
        key: of the distance whose excess over held-out data is told.
        metrics: that are kept.
        draws: that scores are averaged over.
    """

    name: str
    load: Callable[[], Dataset]
    kinds: Mapping[str, Kind]
    settings: Mapping[str, Any]
    network: Mapping[str, Any]
    key: str = "frechet"
    metrics: tuple[str, ...] = IMAGES
    draws: int = 10

    def data(self) -> Dataset:
        """Returns what students see: all of the training data, without labels."""
        return self.load().without_labels()

    def spoilt(self, kind: str, seed: int) -> Dataset:
        """Returns the data of a teacher, all of them from the training split."""
        full, spoil = self.load(), self.kinds[kind].spoil
        if spoil is None:
            return full.without_labels()
        label = full.train.label
        x = full.denormalize(full.train.data).numpy()
        y = np.zeros(len(x)) if label is None else label.numpy()
        return Dataset.from_arrays(kind, spoil(x, y, np.random.default_rng(seed)), held_out=np.arange(4))  # nothing is scored on those

    def score(self, generator: Pipeline, seed: int = 0) -> dict[str, float]:
        """Returns the scores of samples."""
        full = self.load()
        reference = reference_of(full)
        samples = generator.denormalize(generator.sample_batch(self.draws * reference.size, seed=seed).data)
        return scores(reference, (samples - full.shift) / full.scale, self.metrics)

    def floor(self) -> dict[str, float]:
        """Returns the scores of held-out data."""
        full = self.load()
        return scores(reference_of(full), full.held_out.data, self.metrics)


def _tenth(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return x[rng.permutation(len(x))[: len(x) // 10]]


def _unbalanced(x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The lower half of the classes six times as often as the others; without classes, the left half."""
    y = y if y.any() else x.reshape(len(x), -1)[:, 0] > np.median(x.reshape(len(x), -1)[:, 0])
    weight = np.where(y < (y.max() + 1) / 2, 6.0, 1.0)
    return x[rng.choice(len(x), len(x), p=weight / weight.sum())]


def _coarse(step: float) -> Spoil:
    """Values in multiples of ``step``."""
    return lambda x, y, rng: np.round(x / step) * step


def _kinds(early: int, small: Mapping[str, Any], steps: int, good: int, coarse: float) -> dict[str, Kind]:
    return {
        "stopped early": Kind(settings={"teacher.training.steps": early}),
        "a tenth of the weights": Kind(settings={"teacher.network": dict(small), "teacher.training.steps": steps}, small=True),
        "a tenth of the data": Kind(_tenth, {"teacher.training.steps": steps}),
        "wrong class balance": Kind(_unbalanced, {"teacher.training.steps": steps}),
        "coarse data": Kind(_coarse(coarse), {"teacher.training.steps": steps}),
        "good": Kind(settings={"teacher.training.steps": good}),
    }


def _quick(task: Mapping[str, Any]) -> dict[str, Any]:
    return {"trainer.batch_size": 128, "evaluation.draws": 1, "teacher.sampler": {"name": "ode", "steps": 25}, **task}


DIGITS = Task(
    "digits",
    cache(lambda: load_dataset("digits")),
    # three grey values instead of seventeen; 31,520 of the default network's 331,520 weights
    _kinds(100, {"name": "mlp", "width": 32, "depth": 3}, 400, 2000, 8.0),
    _quick({"evaluation.metrics": ("frechet-raw",)}),
    {"name": "mlp"},
)


PATCH = 4  # MNIST's images are handed to networks as 7 x 7 patches of 4 x 4 pixels, which is four times as fast on two cores


def patches(x: np.ndarray) -> np.ndarray:
    """``(n, 28, 28) -> (n, 16, 7, 7)``."""
    n, side, _ = x.shape
    return (
        x.reshape(n, side // PATCH, PATCH, side // PATCH, PATCH).transpose(0, 2, 4, 1, 3).reshape(n, PATCH**2, side // PATCH, side // PATCH)
    )


def images(x: np.ndarray) -> np.ndarray:
    """The inverse of ``patches``."""
    n, _, side, _ = x.shape
    return x.reshape(n, PATCH, PATCH, side, side).transpose(0, 3, 1, 4, 2).reshape(n, PATCH * side, PATCH * side)


@cache
def mnist(path: Path, total: int = 12_500) -> Task:
    """MNIST, 28x28: the first images of its training set, of which a fifth is held out.

    Args:
        path: of a file with train_x (60000, 28, 28) and train_y, uint8.
    """

    @cache
    def load() -> Dataset:
        arrays = np.load(path)
        return Dataset.from_arrays("mnist", patches(arrays["train_x"][:total]), labels=arrays["train_y"][:total].astype(np.int64))

    network = {"name": "unet", "channels": 16, "multipliers": (1, 2)}
    quick = {"trainer.batch_size": 64, "trainer.steps": 2400, "teacher.network": network, "teacher.training.batch_size": 64}
    return Task(
        "mnist",
        load,
        _kinds(300, {"name": "unet", "channels": 4, "multipliers": (1, 2)}, 1500, 4000, 128.0),
        _quick({"evaluation.metrics": ("frechet-raw",), **quick}),
        network,
        draws=1,
    )


# chosen on moons, seed 0, for teachers stopped early and good; at a batch of 128 and full rates students of real data cover less than UID's
IN_THE_PLANE = {"trainer.batch_size": 512, "trainer.student_lr_scale": 0.5}


def _toy(name: str) -> Task:
    network = {"name": "mlp", "width": 96, "depth": 3, "embedding": 32}
    return Task(
        name,
        cache(lambda: load_dataset(name)),
        _kinds(100, {"name": "mlp", "width": 24, "depth": 3, "embedding": 16}, 1000, 2000, 0.5),
        _quick({"evaluation.metrics": ("sliced-wasserstein",), "teacher.network": network, **IN_THE_PLANE}),
        network,
        key="w2",
        metrics=POINTS,
        draws=1,
    )


TOYS = {name: _toy(name) for name in ("moons", "eight-gaussians", "checkerboard")}
