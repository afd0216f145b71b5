"""Questions to a teacher: its answers at noised real data, compared with what its model says under one convention or another.

Errors are relative to those of the best multiple of the state, so 1 means that the teacher knows no more than second moments.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from matchlib.algebra.model import MatchingModel, best_multiple, mean_square
from matchlib.algebra.objective import Objective
from matchlib.algebra.records import Batch, Condition, PathSample
from matchlib.data.dataset import Dataset, map_batch
from matchlib.errors import DataError, IncompatibleError
from matchlib.fields.sampler import SampledField, Sampler
from matchlib.fields.teacher import Teacher
from matchlib.registry import samplers

__all__ = ["Convention", "Finding", "Probe", "as_trained", "check_answer"]

SAMPLES, LEVELS = 256, 8
STEPS = 20  # Euler steps of a sample
RATIO = (0.1, 10.0)  # noise to signal between which the levels lie

Change = Callable[[Tensor], Tensor]
Normalization = tuple[float, float]
Errors = tuple[float, ...]


@dataclass(frozen=True)
class Convention:
    """A way to ask a teacher and to read its answers.

    Args:
        reading: what it would mean; empty for the stated convention.
        remedy: what to change.
        clock: from the model's time to the time that the teacher is asked at.
        heads: whose rows the answers are compared with; None for the model's.
        sign: of the answers.
        labels: from the data's labels to those that the teacher is asked with.
        normalization: (shift, scale) of the data that the teacher is shown; None for that of the data set.
    """

    reading: str = ""
    remedy: str = ""
    clock: Change = torch.clone
    heads: tuple[Objective, ...] | None = None
    sign: float = 1.0
    labels: Change = torch.clone
    normalization: Normalization | None = None


@dataclass(frozen=True)
class Finding:
    """One reading of the teacher's answers: what it would mean, what to change, and its relative error at each time."""

    reading: str
    remedy: str
    errors: Errors

    @property
    def error(self) -> float:
        """Geometric mean over times; infinite where an answer was not finite."""
        finite = all(math.isfinite(e) for e in self.errors)
        return math.exp(sum(math.log(max(e, 1e-12)) for e in self.errors) / len(self.errors)) if finite else math.inf


class Probe:
    """A teacher and the held-out data that it is asked about, always with the same noise.

    Args:
        dataset: in the teacher's units.
        samples: that it is asked about at each time.
        on_progress: called with the number of evaluations until now.

    Raises:
        DataError: the model's source is data, and the data set has none.
    """

    def __init__(
        self, teacher: Teacher, dataset: Dataset, seed: int, on_progress: Callable[[int], None] | None = None, *, samples: int = SAMPLES
    ) -> None:
        self.teacher = copy.copy(teacher)
        self.teacher.guidance = 1.0  # guidance moves answers away from what is learned
        self.model, self.seed, self.dataset, self.on_progress = teacher.model, seed, dataset, on_progress
        if self.model.coupling.reads_source and not dataset.paired:
            raise DataError(f"the teacher's source is data, but {dataset.name} has none")
        index = torch.arange(samples) % len(dataset.held_out.data)
        batch = map_batch(dataset.held_out, lambda x: x[index])
        self.shown = replace(dataset, train=batch, held_out=batch)
        self.times = _levels(self.model)
        self.evaluations = 0
        self._points: tuple[Normalization | None, list[PathSample]] = (None, self._make_points(None))
        self._answers: tuple[object, list[tuple[Tensor, ...]]] = (None, [])  # to the last question

    @property
    def batch(self) -> Batch:
        """Held-out data in the teacher's units."""
        return self.shown.held_out

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _make_points(self, normalization: Normalization | None) -> list[PathSample]:
        """Points of the data at each time."""
        batch = self.batch if normalization is None else self.shown.normalized_as(*normalization).held_out
        points = []
        for t in self.times:
            generator = self._generator()
            pair = self.model.coupling.pair(batch, generator=generator)
            points.append(self.model.interpolate(pair, t.to(batch.data.dtype).expand(len(batch.data)), generator=generator))
        return points

    def points(self, normalization: Normalization | None) -> list[PathSample]:
        """Returns points of the data at each time."""
        if self._points[0] != normalization:
            self._points = normalization, self._make_points(normalization)
        return self._points[1]

    def answers(self, convention: Convention) -> list[tuple[Tensor, ...]]:
        """Returns the teacher's heads at each time; conventions that differ in the reading alone are asked once."""
        question = convention.clock, convention.labels, convention.normalization
        if self._answers[0] != question:
            self._answers = question, [self._ask(convention, point) for point in self.points(convention.normalization)]
        return self._answers[1]

    @torch.no_grad()
    def _ask(self, convention: Convention, point: PathSample) -> tuple[Tensor, ...]:
        label, device = point.condition.label, _device_of(self.teacher)
        condition = replace(point.condition, label=None if label is None else convention.labels(label))
        answer = self.teacher(point.state.to(device), convention.clock(point.time).to(device), _moved(condition, device)).cpu()
        self.evaluations += 1
        if self.on_progress is not None:
            self.on_progress(self.evaluations)
        return self.model.split(answer)

    def errors(self, convention: Convention) -> Errors:
        """Returns the relative error of a convention at each time."""
        heads = convention.heads or self.model.objective.heads
        pairs = zip(self.points(convention.normalization), self.answers(convention), strict=True)
        return tuple(_error(self.model, heads, convention.sign, point, answer) for point, answer in pairs)

    def spread(self) -> float | None:
        """Returns the standard deviation of samples of 20 Euler steps relative to the data's; None where the field has no such ODE."""
        euler: Sampler = samplers.build({"name": "ode", "method": "euler", "steps": STEPS})
        try:
            euler.check(self.model)
        except IncompatibleError:
            return None
        generator = self._generator()
        source = self.model.coupling.source(self.batch, generator=generator)
        field = SampledField(self.teacher, self.model, self.teacher.moments)
        with torch.no_grad():
            samples = euler.sample(field, source, self.batch.label, generator=generator).data
        return float(samples.std() / self.batch.data.std())


def _levels(model: MatchingModel) -> Tensor:
    """Eight times of the model's interval at which noise and signal are of comparable size, float64."""
    at = model.probe(1025)
    ratio = (torch.as_tensor(at.variance).sqrt() / torch.as_tensor(at.a)).expand(at.time.shape)
    inside = at.time[(ratio > RATIO[0]) & (ratio < RATIO[1])]
    inside = inside if len(inside) >= LEVELS else at.time
    return inside[torch.linspace(0, len(inside) - 1, LEVELS + 2).long()][1:-1]


def _error(model: MatchingModel, heads: tuple[Objective, ...], sign: float, point: PathSample, answer: tuple[Tensor, ...]) -> float:
    """Squared error of an answer over that of the best multiple of the state, geometric mean over heads."""
    logs = []
    for head, prediction in zip(heads, answer, strict=True):
        target = (sign * head.row(model, point.coefficients))(point.data, point.source, point.noise)
        linear = mean_square(target - best_multiple(target, point.state) * point.state)
        logs.append(math.log(max(mean_square(prediction - target), 1e-30) / max(linear, 1e-30)))
    mean = sum(logs) / len(logs)
    return math.exp(min(mean, 700.0)) if math.isfinite(mean) else math.inf


def as_trained(teacher: Teacher, dataset: Dataset) -> Dataset:
    """Returns the data in the teacher's own units, where it states them."""
    return dataset if teacher.normalization is None else dataset.normalized_as(*teacher.normalization)


def check_answer(teacher: Teacher, dataset: Dataset) -> None:
    """Asks a teacher once, about two samples of the data at a middle time.

    Raises:
        IncompatibleError: the network fails, or its answer has another shape or is not finite; with what was given and what to do.
    """
    few = replace(dataset, train=(two := _two_samples(dataset)), held_out=two)
    batch, model = as_trained(teacher, few).held_out, teacher.model
    if model.coupling.reads_source and batch.source is None:
        raise IncompatibleError(f"the teacher's source is data, but {dataset.name} has none; give data in pairs")
    generator = torch.Generator().manual_seed(0)
    time = torch.full((2,), (model.times.t_min + model.times.t_max) / 2)
    point = model.interpolate(model.coupling.pair(batch, generator=generator), time, generator=generator)
    device = _device_of(teacher)
    condition = _moved(point.condition, device)
    label = "no labels" if condition.label is None else f"labels {tuple(condition.label.shape)}, {condition.label.dtype}"
    question = f"states of shape {tuple(point.state.shape)}, times of shape (2,) and {label}"
    try:
        with torch.no_grad():
            answer = teacher(point.state.to(device), time.to(device), condition)
        finite = bool(torch.isfinite(answer).all())
    except IncompatibleError:
        raise
    except Exception as error:  # whatever a network of somebody else's raises
        raise IncompatibleError(
            f"the teacher does not fit {dataset.name}: for {question}, {_called(teacher)} raises {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. It must return one tensor of the state's shape; "
            "Teacher.from_callable(fn, model, arguments=(...)) states the order of its arguments, among state, time, label and source"
        ) from error
    if not finite:
        raise IncompatibleError(f"the teacher answers {question} with numbers that are not finite; check its weights and its units")


def _device_of(teacher: Teacher) -> torch.device:
    return next((weight.device for weight in teacher.parameters()), torch.device("cpu"))


def _moved(condition: Condition, device: torch.device) -> Condition:
    return replace(condition, **{key: None if x is None else x.to(device) for key, x in vars(condition).items()})


def _two_samples(dataset: Dataset) -> Batch:
    """Two held-out samples, the second with the last class."""
    batch = map_batch(dataset.held_out, lambda x: x[torch.arange(2) % len(x)])
    if dataset.classes is None or batch.label is None:
        return batch
    return replace(batch, label=torch.stack([batch.label[0], torch.full_like(batch.label[1], dataset.classes - 1)]))


def _called(teacher: Teacher) -> str:
    """How the teacher calls its network, in words."""
    network = getattr(teacher.field, "fn", teacher.field)
    arguments = getattr(teacher.field, "arguments", ("state", "time", "condition"))
    return f"{getattr(network, '__name__', type(network).__name__)}({', '.join(arguments)})"
