"""Examination of a teacher before anything is trained on it: does it predict what its model says, at the time it says?

Real data are noised at eight times and the teacher is asked for its row; a teacher that is right is better than the best multiple of the
state. The same answers are then read under other conventions, and a mistake is named if another reading fits clearly better than the
stated one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.errors import IncompatibleError, SettingError
from matchlib.evaluation.probe import LEVELS, Convention, Finding, Normalization, Probe, as_trained, check_answer, enough
from matchlib.fields.callable import CallableField
from matchlib.fields.teacher import Teacher
from matchlib.registry import interpolants, objectives

__all__ = ["Diagnosis", "check_answer", "examine", "guess_normalization"]

FEW = 64  # samples that a normalization is looked for with, before every run of a teacher that states none
GRID = 17  # times that a noise schedule is looked for at
BETTER = 0.92  # another reading is named if its error is less than this share of the stated one's
CHOICE = 1.4  # handicap of a reading that chooses the best of many times: a brief training can gain by it, too
HELPFUL = 0.97  # labels help if the error with them is below this share of that with others
GUESSED = ("the data as they are", "data scaled to [-1, 1]", "data scaled to [0, 1]", "the data less their mean")
NEAR = 1.1  # readings whose errors are within this factor of the least are as good, and the simplest of them is named
UNKNOWN = (
    "the teacher knows no more than a multiple of the state, in every convention that was tried: its weights were not loaded or hardly "
    "trained, or its data, its time, its sign, the scale of its states or the order of its arguments are others; where its units are "
    "known, state them (normalization=): a weak teacher tells less than they do"
)
LINEAR = 0.97  # a teacher whose error is nowhere below this knows no more than a multiple of the state


@dataclass(frozen=True)
class Diagnosis:
    """Result of an examination.

    Args:
        times: asked at, from little noise to much.
        stated: the reading that the teacher's model states.
        mistakes: what is likely wrong, in words with what to change; empty for a sound teacher.
        spread: standard deviation of samples of 20 Euler steps, relative to the data's; None where no such steps can be taken.
        weights: number of the teacher's weights.
        units: which units of the data the teacher was asked in, and how they were found.
    """

    times: tuple[float, ...]
    stated: Finding
    mistakes: tuple[str, ...]
    weights: int
    spread: float | None
    units: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth a look and no mistake: the units, and times at which the teacher is worse than one number."""
        worse = sum(error > 1 for error in self.stated.errors)
        if not worse or self.mistakes:
            return (self.units,) if self.units else ()
        weak = f"worse than one number at {worse} of {len(self.times)} times: a weak teacher there?"
        return (self.units, weak) if self.units else (weak,)


def examine(
    teacher: Teacher, data: str | Path | Dataset, *, seed: int = 0, on_progress: Callable[[int, int], None] | None = None
) -> Diagnosis:
    """Examines a teacher on real data.

    Args:
        data: what it was trained for, a registered name, a path or a data set; held-out samples are used.
        seed: of the noise.
        on_progress: called with the number of the teacher's evaluations until now, and of all that there can be.

    Raises:
        SettingError: the teacher is no ``Teacher``.
        DataError: there is no such data set, or the model's source is data and the data set has none.
        IncompatibleError: the network cannot be asked, or answers in another shape.
    """
    if not isinstance(teacher, Teacher):
        raise SettingError(
            f"examine takes a matchlib.Teacher, got {type(teacher).__name__}; see Teacher.from_callable and matchlib.adapters"
        )
    dataset = load_dataset(data)
    probe, screen = _probes(teacher, as_trained(teacher, dataset), seed, on_progress)
    check_answer(teacher, dataset, finite=False)
    stated = Finding("as stated", "", probe.errors(Convention()))
    spread = probe.spread()
    if all(math.isfinite(e) for e in stated.errors):
        mistakes = _wrong_convention(probe, screen, stated) or _useless_labels(probe, stated) or _wrong_spread(probe, spread)
    else:
        mistakes = ["answers are not finite at some of the times: weights that overflow, or a singular convention"]
    weights = sum(weight.numel() for weight in teacher.parameters())
    return Diagnosis(tuple(probe.times.tolist()), stated, tuple(mistakes), weights, spread, _units_taken(teacher, probe.dataset))


def _probes(teacher: Teacher, dataset: Dataset, seed: int, on_progress: Callable[[int, int], None] | None) -> tuple[Probe, Probe]:
    """Returns a probe, and one for the many conventions that are tried, which asks less where events are large."""
    evaluations = itertools.count(1)
    tried = 2 + len(COUNTS) + len(TURNED) + len(FACTORS) + 3 + 5 + 3 * len(interpolants) + GRID
    few, full = enough(dataset, "screened"), enough(dataset, "asked")
    levels = LEVELS if few == full else LEVELS // 2
    most = 4 * LEVELS + levels * tried

    def shown(_: int) -> None:
        if on_progress is not None:
            on_progress(min(next(evaluations), most), most)

    probe = Probe(teacher, dataset, seed, shown, samples=full)
    return probe, probe if few == full else Probe(teacher, dataset, seed, shown, samples=few, levels=levels)


# -- conventions ------------------------------------------------------------------------------------------------------------

COUNTS = (1, 100, 200, 500, 1000, 4000)  # numbers of levels that networks count their time to; 1 for a time in [0, 1]
TURNED = (1, 1000)  # those that are tried with a time that runs the other way, too
FACTORS = (0.25, 0.5, 2.0, 4.0)  # of a state that is scaled by a number


def _conventions(probe: Probe) -> Iterator[Convention]:
    """Every convention that a teacher may have been meant in, the simplest first."""
    rows = list(_rows(probe))
    for clock in _directions(probe):
        yield from (_both(clock, row) for row in rows)
    yield from _paths(probe.model)
    for clock in _counts(probe):
        yield from (_both(clock, row) for row in rows)
    if not _noise_beside(probe.teacher):
        yield from _units(probe.dataset)
    for factor in FACTORS:
        yield Convention(
            f"its states are scaled by another number: it answers best at {factor:g} times them", _scaled(probe, factor), latent=factor
        )
    label = probe.batch.label
    if label is not None and not label.is_floating_point():
        classes = int(label.max() + 1)
        one_off = "labels are off by one: class k answers to the label"
        yield Convention(f"{one_off} k + 1", "renumber them", labels=lambda label: (label + 1) % classes)
        yield Convention(f"{one_off} k - 1", "renumber them", labels=lambda label: (label - 1) % classes)


def _both(clock: Convention, row: Convention) -> Convention:
    """A time and a row together."""
    reading, remedy = (" and ".join(filter(None, pair)) for pair in ((clock.reading, row.reading), (clock.remedy, row.remedy)))
    return replace(row, reading=reading, remedy=remedy, clock=clock.clock, level=clock.level)


def _time_of(probe: Probe) -> Callable[[Tensor], Tensor]:
    """How the teacher counts time; the identity where it says nothing."""
    time: Callable[[Tensor], Tensor] = getattr(probe.teacher.field, "time", torch.clone)
    return time if callable(time) else torch.clone


def _turned(probe: Probe) -> str:
    return "give time=lambda t: 1 - t" if _time_of(probe) is torch.clone else "replace t by 1 - t in time"


def _directions(probe: Probe) -> Iterator[Convention]:
    """The stated time, and the time that runs the other way."""
    yield Convention()
    yield Convention("time runs the other way", _turned(probe), _backwards)


def _counts(probe: Probe) -> Iterator[Convention]:
    """Times that are counted to another number of levels."""
    time, turned = _time_of(probe), _turned(probe)
    plain, ends = time is torch.clone, torch.tensor([probe.model.times.t_min, probe.model.times.t_max])
    most = float(time(ends).abs().max())
    for count in COUNTS:
        end = max(count - 1, 1)
        if math.isclose(end, most, rel_tol=0.05):
            continue
        reading = "time runs to 1" if count == 1 else f"time is counted to {count:,}"
        remedy = f"let time run to {end:,}, not to {most:,.4g}"
        yield Convention(reading, f"give time=lambda t: {end} * t" if plain else remedy, level=end / most)
        if count in TURNED:
            both = f"give time=lambda t: {end} * (1 - t)" if plain else f"{turned}, and {remedy}"
            yield Convention(f"{reading}, the other way", both, _backwards, level=end / most)


def _backwards(t: Tensor) -> Tensor:
    return 1 - t


def _scaled(probe: Probe, factor: float) -> str:
    """What to change so that states are multiplied by ``factor``."""
    latent = getattr(probe.teacher.field, "latent", 1.0)
    if not isinstance(latent, int | float):
        return f"multiply latent by {factor:g}"
    return "leave latent out" if math.isclose(latent * factor, 1.0) else f"give latent={latent * factor:g}"


def _negated(probe: Probe) -> str:
    """What to change so that answers have the other sign."""
    output = getattr(probe.teacher.field, "output", 1.0)
    return f"negate output: give output={-output:g}" if isinstance(output, int | float) else "negate output"


def _paths(model: MatchingModel) -> Iterator[Convention]:
    """Other noise schedules: the stated one with its other choices, then every registered one, where the row exists along it."""
    if not model.gaussian:
        return
    own = [(model.interpolant, choice) for choice in _choices(type(model.interpolant))]
    others = [
        (kind(), choice)
        for name in interpolants
        if (kind := interpolants[name]) is not type(model.interpolant)
        for choice in _choices(kind)
    ]
    for path, choice in (*own, *others):
        try:
            changed = replace(path, **choice)  # type: ignore[type-var]
            replace(model, interpolant=changed)
        except (IncompatibleError, SettingError):
            continue
        if changed != model.interpolant:
            spec = interpolants.describe(changed)
            shown = ", ".join([str(spec["name"]), *(f"{key}={value}" for key, value in choice.items())])
            yield Convention(f"its noise schedule is another: {shown}", "state that interpolant", path=changed)


def _choices(kind: type) -> list[dict[str, str]]:
    """Every choice of a ``Literal`` among a plugin's settings; one empty choice where there is none."""
    for name, hint in get_type_hints(kind).items():
        if get_origin(hint) is Literal:
            return [{name: value} for value in get_args(hint)]
    return [{}]


def _rows(probe: Probe) -> Iterator[Convention]:
    """The stated rows, their negatives, and the same for each other row in the place of a single head."""
    model, negated = probe.model, _negated(probe)
    heads = model.objective.heads
    yield Convention()
    yield Convention("its sign is the opposite", negated, sign=-1.0)
    if len(heads) > 1:
        return
    stated = objectives.name_of(heads[0])
    for name, other in _other_objectives(model):
        yield Convention(f"it predicts {name}, not {stated}", f"state the objective {name}", heads=(other,))
        reading, remedy = f"it predicts minus {name}, not {stated}", f"state the objective {name} and {negated}"
        yield Convention(reading, remedy, heads=(other,), sign=-1.0)


def _other_objectives(model: MatchingModel) -> list[tuple[str, Objective]]:
    """Registered rows of the model other than its own, each row once."""
    at = model.probe(33)
    known, others = [model.rows(at)[0].stack(at.time)], []
    for name in objectives:
        try:
            other = replace(model, objective=objectives[name]())
        except IncompatibleError:
            continue
        rows = [row.stack(at.time) for row in other.rows(at)]
        if len(rows) == 1 and not any(torch.allclose(rows[0], row) for row in known):
            known.append(rows[0])
            others.append((name, other.objective))
    return others


def _units(dataset: Dataset) -> Iterator[Convention]:
    """Data in other units: what the teacher was trained on may not be what the data set is normalised to."""
    for name, (shift, scale) in _normalizations(dataset).items():
        if not _alike((shift, scale), (dataset.shift, dataset.scale), dataset):
            reading, remedy = f"it was trained on {name}", f"give normalization=({shift:.6g}, {scale:.6g})"
            yield Convention(reading, remedy, normalization=(shift, scale))


def _noise_beside(teacher: Teacher) -> bool:
    """Whether the path has noise of its own beside a source that is data."""
    return teacher.model.coupling.reads_source and teacher.model.interpolant.noisy


def _alike(one: Normalization, other: Normalization, dataset: Dataset) -> bool:
    """Whether two units are too much alike to be told apart by a teacher's answers."""
    return abs(one[0] - other[0]) < 0.1 * dataset.scale and abs(math.log(one[1] / other[1])) < 0.05


def _normalizations(dataset: Dataset) -> dict[str, Normalization]:
    """The usual (shift, scale) of a data set."""
    low, high = dataset.limits
    x = dataset.denormalize(dataset.train.data.double())
    mean, std = float(x.mean()), float(x.std())
    return {
        "the data as they are": (0.0, 1.0),
        "data scaled to [-1, 1]": ((low + high) / 2, (high - low) / 2),
        "data scaled to [0, 1]": (low, high - low),
        "the data less their mean": (mean, 1.0),
        "data of mean 0 and standard deviation 1": (mean, std),
        "data of mean 0 and standard deviation 1/2": (mean, 2 * std),
    }


# -- mistakes ---------------------------------------------------------------------------------------------------------------


def _wrong_convention(probe: Probe, screen: Probe, stated: Finding) -> list[str]:
    """What is wrong with the convention, if another reading of the answers is clearly better than the stated one, on both probes."""
    findings: list[tuple[Convention | None, Finding]] = [
        (c, Finding(c.reading, c.remedy, screen.errors_if_any(c))) for c in _conventions(screen)
    ]
    findings.append((None, _other_schedule(screen)))
    least = min(finding.error for _, finding in findings)
    if least < min(BETTER * findings[0][1].error, LINEAR):
        convention, simplest = next((c, finding) for c, finding in findings if finding.error <= NEAR * least)
        if convention is not None and convention.path is not None:  # no path is simpler than another
            paths = [(c, finding) for c, finding in findings if c is not None and c.path is not None]
            convention, simplest = min(paths, key=lambda pair: pair[1].error)
        if convention is None or Finding("", "", probe.errors_if_any(convention)).error < min(BETTER * stated.error, LINEAR):
            return [f"{simplest.reading}; {simplest.remedy}"]
    if min(stated.errors) > LINEAR:
        return [UNKNOWN]
    return []


def _other_schedule(probe: Probe) -> Finding:
    """The times at which the teacher answers best; those of another noise schedule, if they are others."""
    t = probe.model.times
    grid = torch.linspace(t.t_min + 0.01 * (t.t_max - t.t_min), t.t_max, GRID, dtype=torch.float64)
    errors = np.array([probe.errors_if_any(Convention(clock=lambda now, then=float(then): torch.full_like(now, then))) for then in grid])  # type: ignore[misc]
    best = [float(grid[i]) for i in np.nan_to_num(errors, nan=np.inf).argmin(0)]
    pairs = ", ".join(f"{now:.2f} as {then:.2f}" for now, then in list(zip(probe.times.tolist(), best, strict=True))[1::3])
    reading = f"its noise schedule is another: it answers best at other times ({pairs})"
    return Finding(reading, "state its own interpolant", tuple(CHOICE * errors.min(0)))


def _useless_labels(probe: Probe, stated: Finding) -> list[str]:
    """Whether labels help."""
    field = probe.teacher.field
    if probe.batch.label is None or (isinstance(field, CallableField) and "label" not in field.arguments):
        return []
    others = Finding("", "", probe.errors_if_any(Convention(labels=lambda label: label.flip(0))))
    if stated.error < HELPFUL * others.error:
        return []
    return ["labels make no difference: the teacher ignores them, or they are not those that it was trained with"]


def _wrong_spread(probe: Probe, spread: float | None) -> list[str]:
    """Whether 20 Euler steps end at about the size of the data, for a model whose samples do not hang on their source alone."""
    if spread is None or not probe.model.gaussian or 0.5 < spread < 2:
        return []
    return [
        f"samples of 20 Euler steps have {spread:.3g} times the data's standard deviation: its times or its units may be wrong; give time= "
        "or normalization="
    ]


def _units_taken(teacher: Teacher, dataset: Dataset) -> str:
    """Says in which units of the data a teacher was asked, and whether its answers fit them clearly."""
    taken = f"units: data = {dataset.shift:.6g} + {dataset.scale:.6g} * model units"
    if teacher.normalization is not None:
        return f"{taken}, as the teacher states"
    fitting = guess_normalization(teacher, dataset)
    if fitting is None:
        return f"{taken}, of the data set; the teacher states none, and its answers fit none clearly"
    if np.allclose(fitting, (dataset.shift, dataset.scale)):
        return f"{taken}, of the data set; the teacher states none, and its answers fit these clearly"
    return f"{taken}, of the data set; the answers fit normalization=({fitting[0]:.6g}, {fitting[1]:.6g}) clearly better"


def guess_normalization(teacher: Teacher, dataset: Dataset, *, seed: int = 0) -> Normalization | None:
    """Returns the (shift, scale) of the data for which a teacher's answers are right, by 64 samples at eight times each.

    It is the data set's own or one of the usual ones: data as they are, less their mean, or scaled to [-1, 1] or [0, 1]. None where none
    is clearly better than the others, or none is better than a multiple of the state; nor for a bridge with noise of its own, which does
    not grow with the units, so that errors in two units cannot be compared.
    """
    if _noise_beside(teacher):
        return None
    probe = Probe(teacher, dataset, seed, samples=FEW)
    candidates: list[Normalization] = [(dataset.shift, dataset.scale)]
    usual = _normalizations(dataset)
    for shift, scale in (usual[name] for name in GUESSED):
        if not any(_alike((shift, scale), other, dataset) for other in candidates):
            candidates.append((shift, scale))
    errors = [Finding("", "", probe.errors_if_any(Convention(normalization=x))).error for x in candidates]
    best, *others = sorted(errors)
    clear = best < 1 and all(best < BETTER * error for error in others)
    return candidates[errors.index(best)] if clear else None
