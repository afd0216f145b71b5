"""What stands at the end of a run: scores of student and teacher beside those of held-out data, and a picture."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from matchlib.algebra.records import Batch
from matchlib.data.dataset import Dataset
from matchlib.data.stored import random_order
from matchlib.errors import DivergedError
from matchlib.evaluation.cells import Cells
from matchlib.evaluation.pictures import draw
from matchlib.evaluation.reference import PointSet, Reference
from matchlib.evaluation.score import MOST, applying, interval, key_of, pair_scores, reference_of
from matchlib.evaluation.work import Work
from matchlib.io import write_json
from matchlib.registry import metrics
from matchlib.training.distributed import SingleProcess

__all__ = ["evaluate", "protocol_of"]

TIMED = 1000  # "seconds" is the time for so many samples
CLASS_METRIC = "frechet"
ROUNDS = 3  # answers to the same sources in a picture
SMALLEST = 20  # held-out samples of a class, for a distance of its own
NORMAL = 1.96  # standard errors to either side that hold 95% of a normal distribution
DRAWS = 10  # at most, unless the settings say otherwise


class Sampled(Protocol):
    """What is scored: something that samples and says what a sample costs."""

    nfe: int
    config: Any
    device: torch.device

    def digest(self) -> str:
        """Returns what tells its samples from those of others."""

    def sample_batch(
        self,
        n: int,
        *,
        seed: int = 0,
        processes: SingleProcess | None = None,
        on_chunk: Callable[[int, int, Callable[[], Tensor]], Tensor] = ...,
        on_evaluation: Callable[[], None] = ...,
    ) -> Batch:
        """Returns ``n`` samples in model units, with sources and labels."""


class EvaluationProtocol(Protocol):
    """How samples are scored: see ``matchlib.runs.settings.EvaluationSettings``."""

    @property
    def samples(self) -> int | None: ...
    @property
    def draws(self) -> int | None: ...
    @property
    def subset(self) -> int: ...
    @property
    def metrics(self) -> Sequence[str] | None: ...
    @property
    def extractor(self) -> str: ...
    @property
    def clip_samples(self) -> bool: ...


def evaluate(
    folder: Path,
    pipelines: Mapping[str, Sampled],
    dataset: Dataset,
    settings: EvaluationProtocol,
    seed: int,
    processes: SingleProcess | None = None,
    *,
    device: torch.device | str = "cpu",
    work: Work | None = None,
) -> dict[str, Any]:
    """Scores pipelines, writes ``evaluation.json`` and ``samples.png``, and returns the former.

    What is sampled and scored is kept in the folder until the evaluation is complete: one that was interrupted goes on where it was.

    Args:
        pipelines: ``teacher`` and perhaps ``student``.
        seed: of the samples.
        processes: that share the sampling; the first one scores.
        device: where scores are computed.
        work: told of every part of the work; it may raise to interrupt it.
    """
    among, work = processes or SingleProcess(), work or Work()
    size, draws = protocol_of(settings, len(dataset.held_out.data))
    protocol = {
        "data": dataset.name,
        "reference": "train" if dataset.stored is None else f"{len(dataset.train.data)} samples of train",
        "samples": size,
        "draws": draws,
        "subset": min(settings.subset, size),
        "clip_samples": settings.clip_samples,
        "extractor": settings.extractor,
        "labels": "in the shares of the training data" if dataset.train.label is not None else "none",
        "seed": seed,
    }
    scored = {kind: pipeline.digest() for kind, pipeline in pipelines.items()}
    cells = Cells(folder / "evaluation", {**protocol, "scored": scored, "data digest": dataset.digest()}, work, kept=among.size == 1)
    drawn = {kind: _sampled(kind, pipelines[kind], draws * size, seed, among, cells) for kind in sorted(pipelines)}

    def score() -> dict[str, Any]:
        reference = reference_of(dataset, samples=size, subset=settings.subset, extractor=settings.extractor, device=device, work=work)
        scoring = Scoring(reference, dataset, applying(reference, settings.metrics), cells)
        report: dict[str, Any] = {**protocol, "features": reference.extractor.name, "takes": reference.extractor.takes}
        rounds: dict[str, list[Tensor]] = {}
        for kind, (batch, nfe, seconds) in drawn.items():
            samples = batch.data.clamp(*dataset.model_limits) if settings.clip_samples else batch.data
            if not torch.isfinite(samples).all():
                raise DivergedError(f"the {kind} in {folder} makes samples that are not finite, so there is nothing to score")
            report[kind] = {"nfe": nfe, **scoring.of(kind, samples, batch.label), "seconds": seconds}
            rounds[kind] = [samples]
            if dataset.paired and pipelines[kind].config.model.coupling.reads_source:
                report[kind] |= pair_scores(dataset, samples)
                sources = len(dataset.held_out.data)
                rounds[kind] = [part for part in samples.split(sources)[:ROUNDS] if len(part) == sources] or [samples]
        seen = random_order(len(dataset.held_out.data))[: max(draws, DRAWS) * size]  # by class all of them are needed
        report["held_out"] = scoring.of("held_out", dataset.held_out.data, dataset.held_out.label, seen)
        draw(folder / "samples.png", dataset, _pictures(rounds, {kind: report[kind]["nfe"] for kind in rounds}))
        write_json(folder / "evaluation.json", report)
        return report

    result: dict[str, Any] = among.on_main_process(score)
    cells.remove()
    return result


def protocol_of(settings: EvaluationProtocol, held_out: int) -> tuple[int, int]:
    """Returns the number of samples in one score, and the number of draws, where so many data are held out."""
    size = min(settings.samples or MOST, held_out)
    return size, settings.draws or max(1, min(DRAWS, MOST // size))


def _sampled(kind: str, pipeline: Sampled, n: int, seed: int, among: SingleProcess, cells: Cells) -> tuple[Batch, int, float]:
    """Returns samples, evaluations of each, and seconds for ``TIMED`` of them."""
    taken, at = [], (0, 1)

    def on_evaluation() -> None:
        cells.work.on_part(f"{kind}: sampling", *at)

    def on_chunk(index: int, chunks: int, generate: Callable[[], Tensor]) -> Tensor:
        def timed() -> tuple[Tensor, dict[str, float]]:
            begin = time.perf_counter()
            samples = generate()
            return samples, {"nfe": pipeline.nfe, "seconds": time.perf_counter() - begin, "samples": len(samples)}

        nonlocal at
        at = index, chunks
        on_evaluation()
        samples, note = cells.tensor(f"{kind}-{index:05d}", timed)
        taken.append(note)
        return samples.to(pipeline.device)

    batch = pipeline.sample_batch(n, seed=seed, processes=among, on_chunk=on_chunk, on_evaluation=on_evaluation)
    seconds, count = (sum(note[key] for note in taken) for key in ("seconds", "samples"))
    return batch, int(taken[0]["nfe"]) if taken else pipeline.nfe, seconds * TIMED / max(count, 1)


@dataclass(frozen=True)
class Scoring:
    """Scores sets of samples, cell by cell.

    Args:
        reference: what they are scored against.
        dataset: for its labels.
        names: of metrics.
        cells: that keep the scores.
    """

    reference: Reference
    dataset: Dataset
    names: Sequence[str]
    cells: Cells

    def of(self, kind: str, samples: Tensor, label: Tensor | None, seen: Tensor | slice = slice(None)) -> dict[str, Any]:
        """Returns the mean of each metric over the draws in ``seen``, with intervals and what belongs to classes."""
        size = self.reference.size
        events = samples.to(self.reference.train.events.device)
        draws = [self.reference.points(part) for part in events[seen].split(size) if len(part) == size]
        values = {name: self._values(kind, name, draws) for name in self.names}
        result: dict[str, Any] = {key_of(name): sum(x) / len(x) for name, x in values.items()}
        intervals = {key_of(name): found for name, x in values.items() if (found := self._interval(kind, name, x, draws[0])) is not None}
        result |= {"intervals": intervals} if intervals else {}
        if self.reference.extractor.classes > 1:
            shares = self.cells.value(f"{kind} shares", lambda: torch.stack([x.shares for x in draws]).mean(0).tolist())
            result["shares"] = shares
        by_class = self.cells.value(f"{kind} by class", lambda: self._by_class(events, label))
        return result | ({f"{CLASS_METRIC}_by_class": by_class} if by_class else {})

    def _values(self, kind: str, name: str, draws: Sequence[PointSet]) -> list[float]:
        def value(i: int, draw: PointSet) -> float:
            self.cells.work.on_part(f"{kind}: {name}", i, len(draws))
            return metrics[name](self.reference, draw)

        return [self.cells.value(f"{kind} {name} {i}", lambda i=i, draw=draw: value(i, draw)) for i, draw in enumerate(draws)]  # type: ignore[misc]

    def _interval(self, kind: str, name: str, values: Sequence[float], draw: PointSet) -> list[float] | None:
        """A 95% interval: of the mean over draws; of a single one from the metric's own error, where it is known."""
        if len(values) > 1:
            return interval(values)
        of = metrics[name].error
        if of is None:
            return None

        def ends() -> list[float] | None:
            half = NORMAL * of(self.reference, draw)
            return [values[0] - half, values[0] + half] if math.isfinite(half) else None

        found: list[float] | None = self.cells.value(f"{kind} {name} interval", ends)
        return found

    def _by_class(self, samples: Tensor, label: Tensor | None) -> list[float | None]:
        """The Frechet distance of each class to the training data of that class, at the class's held-out size; None for one of too few.

        Empty where there are no classes, or too few samples of every one.
        """
        d = self.dataset
        if d.classes is None or label is None or d.train.label is None or d.held_out.label is None:
            return []
        result: list[float | None] = []
        for wanted in range(d.classes):
            train, held_out = (part.data[part.label == wanted].to(samples.device) for part in (d.train, d.held_out))
            batch, size = samples[label.to(samples.device) == wanted], len(held_out)
            if size < SMALLEST or len(batch) < size or len(train) < size:
                result.append(None)
                continue
            of_class = Reference(train, held_out, self.reference.extractor, size, self.reference.subset, self.reference.work)
            parts = [part for part in batch.split(size) if len(part) == size]
            result.append(sum(metrics[CLASS_METRIC](of_class, part) for part in parts) / len(parts))
        return [] if all(value is None for value in result) else result


def _pictures(rounds: Mapping[str, list[Tensor]], nfe: Mapping[str, int]) -> dict[str, Tensor]:
    """One panel for each generator, the dearest first; of the cheapest every answer to the same sources."""
    order = sorted(rounds, key=lambda kind: -nfe[kind])
    panels = {kind: rounds[kind][0] for kind in order}
    return panels | {f"{order[-1]}, draw {i}": more for i, more in enumerate(rounds[order[-1]][1:], 2)}
