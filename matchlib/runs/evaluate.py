"""What stands at the end of a run: scores of student and teacher beside those of held-out data, and a picture."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matchlib.data import Dataset
from matchlib.errors import DivergedError
from matchlib.evaluation.evaluate import reference_of, scores
from matchlib.generator import Generator
from matchlib.pictures import draw
from matchlib.settings import EvaluationSettings
from matchlib.training.files import write_json

__all__ = ["evaluate"]

TIMED = 1000  # "seconds" is the time for so many samples


def evaluate(
    folder: Path, generators: Mapping[str, Generator], dataset: Dataset, settings: EvaluationSettings, seed: int
) -> dict[str, Any]:
    """Scores generators, writes ``evaluation.json`` and ``samples.png``, and returns the former.

    Args:
        generators: ``teacher`` and perhaps ``student``.
        seed: of the samples.
    """
    reference, features = reference_of(dataset)
    n = settings.draws * reference.size
    report: dict[str, Any] = {
        "data": dataset.name,
        "reference": "train",
        "samples": reference.size,
        "draws": settings.draws,
        "features": features,
        "seed": seed,
    }
    pictures: dict[str, Tensor] = {}
    for kind, generator in sorted(generators.items()):
        begin = time.perf_counter()
        samples = generator.sample_units(n, seed=seed)
        seconds = (time.perf_counter() - begin) * TIMED / n
        if not torch.isfinite(samples).all():
            raise DivergedError(f"the {kind} in {folder} makes samples that are not finite, so there is nothing to score")
        report[kind] = {"nfe": generator.nfe, **scores(reference, samples, settings.metrics), "seconds": seconds}
        report[kind] |= _pairs(dataset, samples)
        pictures[kind] = samples
    report["held_out"] = scores(reference, dataset.held_out.data, settings.metrics)
    draw(folder / "samples.png", dataset, pictures)
    write_json(folder / "evaluation.json", report)
    return report


def _pairs(dataset: Dataset, samples: Tensor) -> dict[str, float]:
    """Root mean square error to the truth, in data units, where the samples answer to held-out sources in order."""
    if not dataset.paired:
        return {}
    truth = dataset.held_out.data
    index = torch.arange(len(samples)) % len(truth)
    error = (samples.cpu() - truth[index]).square().mean().sqrt()
    return {"rmse": float(error) * dataset.scale}
