"""Scores of samples beside those of held-out data, all against the training split and all at the same n."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from matchlib.data import Dataset
from matchlib.evaluation.features import extractor
from matchlib.evaluation.metric import Reference, flat
from matchlib.registries import metrics

__all__ = ["key_of", "reference_of", "scores"]


def key_of(name: str) -> str:
    """Returns a metric's key in ``evaluation.json``: its name with underscores."""
    return name.replace("-", "_")


def reference_of(dataset: Dataset) -> tuple[Reference, str]:
    """Returns what samples of a data set are scored against, and the name of its feature extractor."""
    train, held_out = flat(dataset.train.data), flat(dataset.held_out.data)
    labels = dataset.train.label.cpu().numpy() if dataset.classes is not None and dataset.train.label is not None else None
    features = extractor(train, labels)
    return Reference(train, held_out, features, len(held_out)), features.name


def scores(reference: Reference, samples: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """Returns each metric's mean over the draws of ``reference.size`` that ``samples`` hold.

    Args:
        samples: ``(n, *event)`` in model units, n >= ``reference.size``; what is left over is not used.
        names: of registered metrics; all that apply where None.
    """
    x = flat(samples)
    draws = np.split(x[: len(x) // reference.size * reference.size], len(x) // reference.size)
    chosen = [name for name in (metrics if names is None else names) if metrics[name].applies(reference)]
    return {key_of(name): float(np.mean([_score(name, reference, draw) for draw in draws])) for name in chosen}


def _score(name: str, reference: Reference, draw: np.ndarray) -> float:
    metric = metrics[name](reference)
    metric.update(draw)
    return metric.compute()
