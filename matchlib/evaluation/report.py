"""What stands at the end of a run: scores of student and teacher beside those of held-out data, and a picture."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from matchlib.algebra.records import Batch
from matchlib.data.dataset import Dataset
from matchlib.errors import DivergedError
from matchlib.evaluation.pictures import draw
from matchlib.evaluation.reference import Reference, flat
from matchlib.evaluation.score import pair_scores, reference_of, scores
from matchlib.io import write_json
from matchlib.training.distributed import SingleProcess

__all__ = ["evaluate"]

TIMED = 1000  # "seconds" is the time for so many samples
CLASS_METRIC = "frechet"
DRAWS = 3  # answers to the same sources in a picture
SMALLEST = 20  # held-out samples of a class, for a distance of its own


class Sampled(Protocol):
    """What is scored: something that samples and says what a sample costs."""

    nfe: int
    config: Any

    def sample_batch(self, n: int, *, seed: int = 0, processes: SingleProcess | None = None) -> Batch:
        """Returns ``n`` samples in model units, with sources and labels."""


class EvaluationProtocol(Protocol):
    """How samples are scored: see ``matchlib.runs.settings.EvaluationSettings``."""

    @property
    def draws(self) -> int: ...
    @property
    def metrics(self) -> Sequence[str] | None: ...
    @property
    def clip_samples(self) -> bool: ...


def evaluate(
    folder: Path,
    pipelines: Mapping[str, Sampled],
    dataset: Dataset,
    settings: EvaluationProtocol,
    seed: int,
    processes: SingleProcess | None = None,
) -> dict[str, Any]:
    """Scores pipelines, writes ``evaluation.json`` and ``samples.png``, and returns the former.

    Args:
        pipelines: ``teacher`` and perhaps ``student``.
        seed: of the samples.
        processes: that share the sampling; the first one scores.
    """
    among = processes or SingleProcess()
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
    drawn: dict[str, tuple[Batch, float]] = {}
    for kind, pipeline in sorted(pipelines.items()):
        begin = time.perf_counter()
        batch = pipeline.sample_batch(n, seed=seed, processes=among)
        drawn[kind] = batch, (time.perf_counter() - begin) * TIMED / n

    def score() -> dict[str, Any]:
        rounds: dict[str, list[Tensor]] = {}
        for kind, (batch, seconds) in drawn.items():
            samples = batch.data.clamp(*dataset.model_limits) if settings.clip_samples else batch.data
            if not torch.isfinite(samples).all():
                raise DivergedError(f"the {kind} in {folder} makes samples that are not finite, so there is nothing to score")
            report[kind] = {"nfe": pipelines[kind].nfe, **scores(reference, samples, settings.metrics), "seconds": seconds}
            report[kind] |= _by_class(reference, dataset, replace(batch, data=samples))
            rounds[kind] = [samples]
            if dataset.paired and pipelines[kind].config.model.coupling.reads_source:
                report[kind] |= pair_scores(dataset, samples)
                rounds[kind] = [part for part in samples.split(reference.size)[:DRAWS] if len(part) == reference.size]
        report["held_out"] = scores(reference, dataset.held_out.data, settings.metrics) | _by_class(reference, dataset, dataset.held_out)
        draw(folder / "samples.png", dataset, _pictures(rounds, {kind: report[kind]["nfe"] for kind in rounds}))
        write_json(folder / "evaluation.json", report)
        return report

    result: dict[str, Any] = among.on_main_process(score)
    return result


def _pictures(rounds: Mapping[str, list[Tensor]], nfe: Mapping[str, int]) -> dict[str, Tensor]:
    """One panel for each generator, the dearest first; of the cheapest every answer to the same sources."""
    order = sorted(rounds, key=lambda kind: -nfe[kind])
    panels = {kind: rounds[kind][0] for kind in order}
    return panels | {f"{order[-1]}, draw {i}": more for i, more in enumerate(rounds[order[-1]][1:], 2)}


def _by_class(reference: Reference, dataset: Dataset, samples: Batch) -> dict[str, list[float]]:
    """The Frechet distance of each class to the training data of that class, at the class's held-out size, where there are classes."""
    if dataset.classes is None or samples.label is None or dataset.train.label is None or dataset.held_out.label is None:
        return {}
    result = []
    for label in range(dataset.classes):
        held_out, train, batch = (batch.data[batch.label == label] for batch in (dataset.held_out, dataset.train, samples))
        size = len(held_out)
        if size < SMALLEST or len(batch) < size or len(train) < size:
            return {}
        of_class = Reference(flat(train), flat(held_out), reference.features, size)
        result.append(scores(of_class, batch, [CLASS_METRIC])[CLASS_METRIC])
    return {f"{CLASS_METRIC}_by_class": result}
