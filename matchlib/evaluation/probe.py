"""Questions to a teacher: its answers at noised real data, compared with what its model says under one convention or another.

Errors are relative to those of the best multiple of the state, both less their means, so 1 means that the teacher knows no more than two
moments of all numbers.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from matchlib.algebra.interpolant import Interpolant
from matchlib.algebra.model import MatchingModel, best_multiple, mean_square
from matchlib.algebra.objective import Objective
from matchlib.algebra.records import Batch, Condition, PathSample
from matchlib.algebra.rows import Coefficients
from matchlib.data.dataset import Dataset, map_batch, random_rows
from matchlib.errors import DataError, IncompatibleError, Interrupted
from matchlib.fields.callable import CallableField
from matchlib.fields.sampler import SampledField, Sampler
from matchlib.fields.teacher import Teacher
from matchlib.registry import samplers

__all__ = ["Convention", "Finding", "Probe", "as_trained", "check_answer", "enough"]

LEVELS = 8
MOST = 256  # samples at a time
NUMBERS = {"asked": 1 << 14, "screened": 1 << 12, "drawn": 1 << 13}  # in the samples of a time: few images tell as much as many points
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
        level: multiplies the time that the network itself is given, after the teacher's own ``time``.
        latent: multiplies the state.
        path: that the points lie on, at the same ratios of noise to signal; None for the model's.
    """

    reading: str = ""
    remedy: str = ""
    clock: Change = torch.clone
    heads: tuple[Objective, ...] | None = None
    sign: float = 1.0
    labels: Change = torch.clone
    normalization: Normalization | None = None
    level: float = 1.0
    latent: float = 1.0
    path: Interpolant | None = None


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
        samples: that it is asked about at each time; None for a number that suits the size of an event.
        levels: times that it is asked at.
        on_progress: called with the number of evaluations until now.

    Raises:
        DataError: the model's source is data, and the data set has none.
    """

    def __init__(
        self,
        teacher: Teacher,
        dataset: Dataset,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
        *,
        samples: int | None = None,
        levels: int = LEVELS,
    ) -> None:
        self.teacher = copy.copy(teacher)
        self.teacher.guidance = 1.0  # guidance moves answers away from what is learned
        self.model, self.seed, self.dataset, self.on_progress = teacher.model, seed, dataset, on_progress
        if self.model.coupling.reads_source and not dataset.paired:
            raise DataError(f"the teacher's source is data, but {dataset.name} has none")
        count = samples or enough(dataset, "asked")
        some = map_batch(dataset.held_out, lambda x: random_rows(x, count))
        batch = map_batch(some, lambda x: x[torch.arange(count) % len(x)])
        self.shown = replace(dataset, train=batch, held_out=batch)
        self.times = _levels(self.model, levels)
        self.evaluations = 0
        self._points: tuple[object, list[PathSample]] = ((None, None), self._make_points(Convention()))
        self._answers: tuple[object, list[tuple[Tensor, ...]]] = (None, [])  # to the last question

    @property
    def batch(self) -> Batch:
        """Held-out data in the teacher's units."""
        return self.shown.held_out

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _make_points(self, convention: Convention) -> list[PathSample]:
        """Points of the data at each time."""
        units, path = convention.normalization, convention.path
        batch = self.batch if units is None else self.shown.normalized_as(*units).held_out
        model = self.model if path is None else replace(self.model, interpolant=path)
        points = []
        for t in self.times if path is None else _same_levels(self.model, path, self.times):
            generator = self._generator()
            pair = model.coupling.pair(batch, generator=generator)
            points.append(model.interpolate(pair, t.to(batch.data.dtype).expand(len(batch.data)), generator=generator))
        return points

    def points(self, convention: Convention) -> list[PathSample]:
        """Returns points of the data at each time."""
        where = convention.normalization, convention.path
        if self._points[0] != where:
            self._points = where, self._make_points(convention)
        return self._points[1]

    def answers(self, convention: Convention) -> list[tuple[Tensor, ...]]:
        """Returns the teacher's heads at each time; conventions that differ in the reading alone are asked once."""
        c = convention
        question = c.clock, c.labels, c.normalization, c.level, c.latent, c.path
        if self._answers[0] != question:
            self._answers = question, [self._ask(c, point) for point in self.points(c)]
        return self._answers[1]

    @torch.no_grad()
    def _ask(self, convention: Convention, point: PathSample) -> tuple[Tensor, ...]:
        label, device = point.condition.label, _device_of(self.teacher)
        condition = replace(point.condition, label=None if label is None else convention.labels(label))
        state, time = convention.latent * point.state, convention.clock(point.time)
        teacher = _at_level(self.teacher, convention.level)
        answer = teacher(state.to(device), time.to(device), _moved(condition, device)).cpu()
        self.evaluations += 1
        if self.on_progress is not None:
            self.on_progress(self.evaluations)
        return self.model.split(answer)

    def errors(self, convention: Convention) -> Errors:
        """Returns the relative error of a convention at each time."""
        model = self.model if convention.path is None else replace(self.model, interpolant=convention.path)
        heads = convention.heads or model.objective.heads
        pairs = zip(self.points(convention), self.answers(convention), strict=True)
        return tuple(_error(model, heads, convention.sign, point, answer) for point, answer in pairs)

    def errors_if_any(self, convention: Convention) -> Errors:
        """Returns the relative errors, infinite where the network cannot be asked so: a time or label that it has no place for."""
        try:
            return self.errors(convention)
        except Interrupted:
            raise
        except Exception:  # whatever a network of somebody else's raises
            return (math.inf,) * len(self.times)

    def spread(self) -> float | None:
        """Returns the standard deviation of samples of 20 Euler steps relative to the data's; None where the field has no such ODE."""
        euler: Sampler = samplers.build({"name": "ode", "method": "euler", "steps": STEPS})
        try:
            euler.check(self.model)
        except IncompatibleError:
            return None
        generator, device = self._generator(), _device_of(self.teacher)
        batch = map_batch(self.batch, lambda x: random_rows(x, enough(self.dataset, "drawn")))
        source = self.model.coupling.source(batch, generator=generator).to(device)
        label = None if batch.label is None else batch.label.to(device)
        field = SampledField(self.teacher, self.model, self.teacher.moments)
        with torch.no_grad():
            samples = euler.sample(field, source, label, generator=torch.Generator(device).manual_seed(self.seed)).data
        return float(samples.std().cpu() / self.batch.data.std().cpu())


def enough(dataset: Dataset, purpose: str) -> int:
    """Returns how many samples hold about as many numbers as a purpose of ``NUMBERS`` needs, between 4 and 256."""
    return min(max(NUMBERS[purpose] // math.prod(dataset.shape), 4), MOST)


def _levels(model: MatchingModel, levels: int) -> Tensor:
    """Some times of the model's interval at which noise and signal are of comparable size, float64."""
    at = model.probe(1025)
    ratio = (torch.as_tensor(at.variance).sqrt() / torch.as_tensor(at.a)).expand(at.time.shape)
    inside = at.time[(ratio > RATIO[0]) & (ratio < RATIO[1])]
    inside = inside if len(inside) >= levels else at.time
    return inside[torch.linspace(0, len(inside) - 1, levels + 2).long()][1:-1]


def _same_levels(model: MatchingModel, path: Interpolant, times: Tensor) -> Tensor:
    """Times of another path at which noise over signal is what it is at ``times`` of the model's."""
    known = replace(model, interpolant=path).probe(1025)
    wanted, grid = (_log_ratio(at) for at in (model.interpolant.coefficients(times), known))
    return torch.as_tensor(np.interp(wanted, np.maximum.accumulate(grid), known.time), dtype=times.dtype)


def _log_ratio(at: Coefficients) -> Tensor:
    return (0.5 * torch.as_tensor(at.variance).log() - torch.as_tensor(at.a).log()).expand(at.time.shape)


def _at_level(teacher: Teacher, factor: float) -> nn.Module:
    """A teacher whose network is given ``factor`` times the time that it would be given."""
    if factor == 1.0:
        return teacher
    field, time = copy.copy(teacher.field), getattr(teacher.field, "time", None)
    if not isinstance(field, CallableField) or time is None:
        return _Slowed(teacher.field, factor)
    field.time = lambda t: factor * time(t)
    return field


class _Slowed(nn.Module):
    """A field that is asked at ``factor`` times the time."""

    def __init__(self, field: nn.Module, factor: float) -> None:
        super().__init__()
        self.field, self.factor = field, factor

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        answer: Tensor = self.field(state, self.factor * time, condition)
        return answer


def _error(model: MatchingModel, heads: tuple[Objective, ...], sign: float, point: PathSample, answer: tuple[Tensor, ...]) -> float:
    """Squared error of an answer over that of the best multiple of the state, geometric mean over heads."""
    logs = []
    for head, prediction in zip(heads, answer, strict=True):
        target = (sign * head.row(model, point.coefficients))(point.data, point.source, point.noise)
        wanted, state = target - target.mean(), point.state - point.state.mean()  # zero in units of mean zero; in others, not to be learned
        linear = mean_square(wanted - best_multiple(wanted, state) * state)
        logs.append(math.log(max(mean_square(prediction - target), 1e-30) / max(linear, 1e-30)))
    mean = sum(logs) / len(logs)
    return math.exp(min(mean, 700.0)) if math.isfinite(mean) else math.inf


def as_trained(teacher: Teacher, dataset: Dataset) -> Dataset:
    """Returns the data in the teacher's own units, where it states them."""
    return dataset if teacher.normalization is None else dataset.normalized_as(*teacher.normalization)


def check_answer(teacher: Teacher, dataset: Dataset, *, finite: bool = True) -> None:
    """Asks a teacher once, about a few samples of the data at a middle time: as many as no size of theirs, which might broadcast.

    Args:
        finite: whether its answer must be finite.

    Raises:
        IncompatibleError: the network fails, or its answer has another shape, is not finite or has no gradient; with what was given and
            what to do.
    """
    count = next(n for n in (2, 3, 5, 7, 11, 13) if n not in dataset.shape)
    few = replace(dataset, train=(some := _samples(dataset, count)), held_out=some)
    batch, model = as_trained(teacher, few).held_out, teacher.model
    if model.coupling.reads_source and batch.source is None:
        raise IncompatibleError(f"the teacher's source is data, but {dataset.name} has none; give data in pairs")
    generator = torch.Generator().manual_seed(0)
    time = torch.full((count,), (model.times.t_min + model.times.t_max) / 2)
    point = model.interpolate(model.coupling.pair(batch, generator=generator), time, generator=generator)
    device = _device_of(teacher)
    condition = _moved(point.condition, device)
    label = "no labels" if condition.label is None else f"labels {tuple(condition.label.shape)}, {condition.label.dtype}"
    ends = torch.tensor([model.times.t_min, model.times.t_max])[torch.arange(count) % 2]
    latest, question = time, f"states of shape {tuple(point.state.shape)}, times of shape ({count},) and {label}"
    try:
        with torch.enable_grad():
            answer = teacher(point.state.to(device).requires_grad_(), time.to(device), condition)
        fixed, answer = not answer.requires_grad, answer.detach()
        with torch.no_grad():
            if fixed:  # a constant has no gradient either
                fixed = not torch.equal(answer, teacher(point.state.to(device) + 1, time.to(device), condition))
            latest = ends
            teacher(point.state.to(device), ends.to(device), condition)
        overflows = finite and not bool(torch.isfinite(answer).all())
    except IncompatibleError:
        raise
    except Exception as error:  # whatever a network of somebody else's raises
        raise IncompatibleError(
            f"the teacher does not fit {dataset.name}: for {question}, {_called(teacher)} raises {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]}. {_advice(teacher, latest, ends, error)}"
        ) from error
    if fixed:
        raise IncompatibleError(
            f"{_called(teacher)} answers without a gradient with respect to the state, which a student learns from: "
            "take torch.no_grad(), torch.inference_mode() or .detach() out of it"
        )
    if overflows:
        raise IncompatibleError(f"the teacher answers {question} with numbers that are not finite; check its weights and its units")


def _advice(teacher: Teacher, asked: Tensor, ends: Tensor, error: Exception) -> str:
    """What to change where a network raises an error for the times ``asked``, with those that it was given."""
    order = "Teacher.from_callable(fn, model, arguments=(...)) states the order of its arguments, among state, time, label and source"
    clock = getattr(teacher.field, "time", None)
    try:
        given = [f"{x:g}" for x in (clock(asked) if callable(clock) else asked).tolist()]
        low, high = ((clock(x) if callable(clock) else x).item() for x in ends[:2])
    except Exception:  # it is the clock that fails
        return f"It must return one tensor of the state's shape; {order}"
    times = f"It was given the times {' and '.join(dict.fromkeys(given))}"
    if isinstance(error, IndexError) and asked is ends:
        return (
            f"{times} for t = {ends[0]:g} and {ends[1]:g}, the ends of the model's times: for K levels from 0 to K - 1 these are "
            "TimeDistribution(1 / K, 1.0) with time=lambda t: (K * t - 1).round().long()"
        )
    if isinstance(error, RuntimeError) and "Long, Int" in str(error):
        return (
            f"{times}; an embedding needs whole numbers, time=lambda t: (K * t - 1).round().long() for K levels "
            f"(its times go from {low:g} to {high:g} now)"
        )
    return f"{times}. It must return one tensor of the state's shape; {order}"


def _device_of(teacher: Teacher) -> torch.device:
    return next((weight.device for weight in teacher.parameters()), torch.device("cpu"))


def _moved(condition: Condition, device: torch.device) -> Condition:
    return replace(condition, **{key: None if x is None else x.to(device) for key, x in vars(condition).items()})


def _samples(dataset: Dataset, count: int) -> Batch:
    """Held-out samples, the last with the last class."""
    batch = map_batch(dataset.held_out, lambda x: x[torch.arange(count) % len(x)])
    if dataset.classes is None or batch.label is None:
        return batch
    return replace(batch, label=torch.cat([batch.label[:-1], torch.full_like(batch.label[-1:], dataset.classes - 1)]))


def _called(teacher: Teacher) -> str:
    """How the teacher calls its network, in words."""
    network = getattr(teacher.field, "fn", teacher.field)
    arguments = getattr(teacher.field, "arguments", ("state", "time", "condition"))
    return f"{getattr(network, '__name__', type(network).__name__)}({', '.join(arguments)})"
