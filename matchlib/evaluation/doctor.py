"""Examination of a teacher before anything is trained on it: does it predict what its model says, at the time it says?

Real data are noised at eight times and the teacher is asked for its row. Errors are relative to those of the best multiple of the state, so
1 means that the teacher knows no more than second moments; a teacher that is right is below. The same answers are then read under other
conventions, and a mistake is named if another reading fits clearly better than the stated one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from matchlib.algebra.model import MatchingModel, best_multiple, mean_square
from matchlib.algebra.objective import Objective
from matchlib.algebra.records import Batch, PathSample
from matchlib.algebra.rows import Row
from matchlib.data.dataset import Dataset
from matchlib.errors import DataError, IncompatibleError
from matchlib.fields.sampler import SampledField, Sampler
from matchlib.fields.teacher import Teacher
from matchlib.registry import objectives, samplers

__all__ = ["Diagnosis", "Finding", "examine"]

SAMPLES, LEVELS = 256, 8
RATIO = (0.1, 10.0)  # noise to signal between which the levels lie
BETTER = 0.92  # another reading is named if its error is less than this share of the stated one's
CHOICE = 1.4  # handicap of a reading that chooses the best of many times: a brief training can gain by it, too
TOLD = 0.97  # labels help if the error with them is below this share of that with others
NEAR = 1.1  # readings whose errors are within this factor of the least are as good, and the simplest of them is named
LINEAR = 0.97  # a teacher whose error is nowhere below this knows no more than a multiple of the state


@dataclass(frozen=True)
class Finding:
    """One reading of the teacher's answers: what it would mean, what to change, and its relative error at each time."""

    reading: str
    remedy: str
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """Geometric mean over times; infinite where an answer was not finite."""
        finite = all(math.isfinite(e) for e in self.errors)
        return math.exp(sum(math.log(max(e, 1e-12)) for e in self.errors) / len(self.errors)) if finite else math.inf


@dataclass(frozen=True)
class Diagnosis:
    """What an examination found.

    Args:
        times: asked at, from little noise to much.
        stated: the reading that the teacher's model states.
        mistakes: what is likely wrong, in words with what to change; empty for a sound teacher.
        spread: standard deviation of samples of 20 Euler steps, relative to the data's; None where no such steps can be taken.
        weights: number of the teacher's weights.
    """

    times: tuple[float, ...]
    stated: Finding
    mistakes: tuple[str, ...]
    weights: int
    spread: float | None


def examine(teacher: Teacher, dataset: Dataset, *, seed: int = 0) -> Diagnosis:
    """Examines a teacher on real data.

    Args:
        dataset: what it was trained for; held-out samples are used.
        seed: of the noise.

    Raises:
        DataError: the model's source is data, and the data set has none.
        IncompatibleError: the teacher answers in another shape.
    """
    of = _Examination(teacher, dataset.normalized_as(*teacher.units) if teacher.units else dataset, seed)
    stated = of.stated
    if not all(math.isfinite(e) for e in stated.errors):
        mistakes = ["answers are not finite at some of the times: weights that overflow, or a singular convention"]
    else:
        mistakes = of.convention() or of.labels() or of.samples()
    return Diagnosis(tuple(of.times.tolist()), stated, tuple(mistakes), sum(w.numel() for w in teacher.parameters()), of.spread)


class _Examination:
    """The teacher's answers at fixed points, read in many ways."""

    def __init__(self, teacher: Teacher, dataset: Dataset, seed: int) -> None:
        self.teacher = Teacher(teacher.field, teacher.model, teacher.moments)  # guidance moves answers away from what is learned
        self.model, self.seed, self.dataset = teacher.model, seed, dataset
        if self.model.coupling.reads_source and not dataset.paired:
            raise DataError(f"the teacher's source is data, but {dataset.name} has none")
        index = torch.arange(SAMPLES) % len(dataset.held_out.data)
        held = dataset.held_out
        self.batch = Batch(*(None if x is None else x[index] for x in (held.data, held.source, held.label)))  # type: ignore[arg-type]
        self.times = _levels(self.model)

    @cached_property
    def at(self) -> list[PathSample]:
        """Points of the batch at each time, always from the same noise."""
        return [self._point(t.to(self.batch.data.dtype)) for t in self.times]

    def _point(self, t: Tensor) -> PathSample:
        generator = torch.Generator().manual_seed(self.seed)
        pair = self.model.coupling.pair(self.batch, generator=generator)
        return self.model.interpolate(pair, t.expand(len(self.batch.data)), generator=generator)

    @torch.no_grad()
    def answers(self, points: list[PathSample], clock: Callable[[Tensor], Tensor] = torch.clone) -> list[tuple[Tensor, ...]]:
        """The teacher's heads at each point, asked at times of another clock."""
        return [self.model.split(self.teacher(x.state, clock(x.time), x.condition)) for x in points]

    @cached_property
    def stated(self) -> Finding:
        heads = self.model.objective.heads
        given = self.answers(self.at)
        return Finding("as stated", "", tuple(_joint(heads, self.model, x, answer) for x, answer in zip(self.at, given, strict=True)))

    def convention(self) -> list[str]:
        """What is wrong with the convention, if another reading of the answers is clearly better than the stated one."""
        stated, readings = self.stated, list(self.readings())
        least = min(finding.error for finding in readings)
        if least < min(BETTER * stated.error, LINEAR):
            simplest = next(finding for finding in readings if finding.error <= NEAR * least)
            return [f"{simplest.reading}; {simplest.remedy}"]
        if min(stated.errors) > LINEAR:
            return ["the teacher knows no more than a multiple of the state, at any time: its weights were probably not loaded"]
        return []

    def readings(self) -> Iterator[Finding]:
        """Every other convention that the answers are tried in."""
        clocks: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
            ("", "", torch.clone),
            ("time runs the other way", "give time=lambda t: 1 - t", lambda t: 1 - t),
            ("time is counted to 1,000", "give time=lambda t: 999 * t", lambda t: 999 * t),
            ("time is counted to 1,000, the other way", "give time=lambda t: 999 * (1 - t)", lambda t: 999 * (1 - t)),
            ("time is divided by 1,000 once too often", "leave the factor out of time", lambda t: t / 1000),
        )
        for reading, remedy, clock in clocks:
            answers = self.answers(self.at, clock)
            for what, change, rows in self._rows():
                errors = tuple(_error(rows, self.model, x, answer) for x, answer in zip(self.at, answers, strict=True))
                yield Finding(" and ".join(filter(None, (reading, what))), " and ".join(filter(None, (remedy, change))), errors)
        yield from self._classes()
        yield from self._units()
        yield from self._schedules()

    def _rows(self) -> Iterator[tuple[str, str, Callable[[PathSample], list[Row]]]]:
        """The stated rows, their negatives, and the same for each other row in the place of a single head."""
        heads = self.model.objective.heads
        yield "", "", self._reader(heads, 1.0)
        yield "its sign is the opposite", "give output=-1", self._reader(heads, -1.0)
        if len(heads) > 1:
            return
        own = objectives.name_of(heads[0])
        for name, other in _others(self.model):
            yield f"it predicts {name}, not {own}", f"state the objective {name}", self._reader((other,), 1.0)
            yield f"it predicts minus {name}, not {own}", f"state the objective {name} and output=-1", self._reader((other,), -1.0)

    def _reader(self, heads: Sequence[Objective], sign: float) -> Callable[[PathSample], list[Row]]:
        return lambda x: [sign * head.row(self.model, x.coefficients) for head in heads]

    def _units(self) -> Iterator[Finding]:
        """Data in other units: what the teacher was trained on may not be what the data set is normalised to."""
        low, high = self.dataset.limits
        units = {
            "[-1, 1]": ((low + high) / 2, (high - low) / 2),
            "[0, 1]": (low, high - low),
            "the data's own units": (0.0, 1.0),
            "mean 0 and standard deviation 1": _standard(self.dataset),
            "mean 0 and standard deviation 1/2": (_standard(self.dataset)[0], 2 * _standard(self.dataset)[1]),
        }
        for name, (shift, scale) in units.items():
            if np.allclose((shift, scale), (self.dataset.shift, self.dataset.scale), rtol=0.02, atol=0.02 * scale):
                continue
            other = _Examination(self.teacher, self.dataset.normalized_as(shift, scale), self.seed)
            yield Finding(f"it was trained on data scaled to {name}", f"give units=({shift:.6g}, {scale:.6g})", other.stated.errors)

    def _schedules(self) -> Iterator[Finding]:
        """The times at which the teacher answers best; those of another noise schedule, if they are others."""
        t = self.model.times
        grid = torch.linspace(t.t_min + 0.01 * (t.t_max - t.t_min), t.t_max, 33, dtype=torch.float64)
        errors = np.array([self._asked_at(float(then)) for then in grid])
        best = [float(grid[i]) for i in np.nan_to_num(errors, nan=np.inf).argmin(0)]
        pairs = ", ".join(f"{now:.2f} as {then:.2f}" for now, then in list(zip(self.times.tolist(), best, strict=True))[1::3])
        reading = f"its noise schedule is another: it answers best at other times ({pairs})"
        yield Finding(reading, "state its own interpolant", tuple(CHOICE * errors.min(0)))

    def _asked_at(self, then: float) -> list[float]:
        """The errors of answers to every point at one and the same time."""

        def clock(now: Tensor) -> Tensor:
            return torch.full_like(now, then)

        pairs = zip(self.at, self.answers(self.at, clock), strict=True)
        return [_joint(self.model.objective.heads, self.model, x, answer) for x, answer in pairs]

    @cached_property
    def spread(self) -> float | None:
        """Standard deviation of samples of 20 Euler steps, relative to the data's; None where the ODE cannot be solved from the field."""
        euler: Sampler = samplers.build({"name": "ode", "method": "euler", "steps": 20})
        try:
            euler.check(self.model)
        except IncompatibleError:
            return None
        generator = torch.Generator().manual_seed(self.seed)
        source = self.model.coupling.source(self.batch, generator=generator)
        of = SampledField(self.teacher, self.model, self.teacher.moments)
        with torch.no_grad():
            made = euler.sample(of, source, self.batch.label, generator=generator).data
        return float(made.std() / self.batch.data.std())

    def samples(self) -> list[str]:
        """Whether 20 Euler steps end at about the size of the data, for a model whose samples do not hang on their source alone."""
        if self.spread is None or not self.model.gaussian or 0.5 < self.spread < 2:
            return []
        return [f"samples of 20 Euler steps have {self.spread:.3g} times the data's standard deviation: times or moments may be wrong"]

    def _classes(self) -> Iterator[Finding]:
        """Labels that are counted from another number."""
        label = self.batch.label
        if label is None or label.is_floating_point():
            return
        for by, what in ((1, "k + 1"), (-1, "k - 1")):
            errors = self._told((label + by) % int(label.max() + 1))
            yield Finding(f"labels are off by one: class k answers to the label {what}", "renumber them", errors)

    def _told(self, label: Tensor) -> tuple[float, ...]:
        """The errors of answers to every point with other labels."""
        points = [replace(x, condition=replace(x.condition, label=label)) for x in self.at]
        pairs = zip(points, self.answers(points), strict=True)
        return tuple(_joint(self.model.objective.heads, self.model, x, answer) for x, answer in pairs)

    def labels(self) -> list[str]:
        """Whether labels help."""
        label = self.batch.label
        if label is None or self.stated.error < TOLD * Finding("", "", self._told(label.flip(0))).error:
            return []
        return ["labels make no difference: the teacher ignores them, or they are not those that it was trained with"]


def _levels(model: MatchingModel) -> Tensor:
    """Eight times of the model's interval at which noise and signal are of comparable size, float64."""
    at = model.probe(1025)
    ratio = (torch.as_tensor(at.variance).sqrt() / torch.as_tensor(at.a)).expand(at.time.shape)
    inside = at.time[(ratio > RATIO[0]) & (ratio < RATIO[1])]
    inside = inside if len(inside) >= LEVELS else at.time
    return inside[torch.linspace(0, len(inside) - 1, LEVELS + 2).long()][1:-1]


def _standard(dataset: Dataset) -> tuple[float, float]:
    x = dataset.denormalize(dataset.train.data.double())
    return float(x.mean()), float(x.std())


def _others(model: MatchingModel) -> list[tuple[str, Objective]]:
    """Registered rows of the model other than its own, each row once."""
    at = model.probe(33)
    seen = [model.rows(at)[0].stack(at.time)]
    found = []
    for name in objectives:
        try:
            other = replace(model, objective=objectives[name]())
        except IncompatibleError:
            continue
        rows = [row.stack(at.time) for row in other.rows(at)]
        if len(rows) == 1 and not any(torch.allclose(rows[0], known) for known in seen):
            seen.append(rows[0])
            found.append((name, other.objective))
    return found


def _joint(heads: tuple[Objective, ...], model: MatchingModel, point: PathSample, answer: tuple[Tensor, ...]) -> float:
    return _error(lambda x: [head.row(model, x.coefficients) for head in heads], model, point, answer)


def _error(rows: Callable[[PathSample], list[Row]], model: MatchingModel, point: PathSample, answer: tuple[Tensor, ...]) -> float:
    """Squared error of an answer over that of the best multiple of the state, geometric mean over heads."""
    logs = []
    for row, predicted in zip(rows(point), answer, strict=True):
        target = row(point.data, point.source, point.noise)
        linear = mean_square(target - best_multiple(target, point.state) * point.state)
        logs.append(math.log(max(mean_square(predicted - target), 1e-30) / max(linear, 1e-30)))
    found = sum(logs) / len(logs)
    return math.exp(min(found, 700.0)) if math.isfinite(found) else math.inf


def check_answer(teacher: Teacher, dataset: Dataset) -> None:
    """STUB."""
