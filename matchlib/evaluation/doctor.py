"""Examination of a teacher before anything is trained on it: does it predict what its model says, at the time it says?

Real data are noised at eight times and the teacher is asked for its row; a teacher that is right is better than the best multiple of the
state. The same answers are then read under other conventions, and a mistake is named if another reading fits clearly better than the
stated one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.data.dataset import Dataset
from matchlib.errors import IncompatibleError
from matchlib.evaluation.probe import LEVELS, Convention, Finding, Normalization, Probe, as_trained, check_answer
from matchlib.fields.teacher import Teacher
from matchlib.registry import objectives

__all__ = ["Diagnosis", "check_answer", "examine", "guess_normalization"]

FEW = 64  # samples that a normalization is looked for with, before every run of a teacher that states none
GRID = 33  # times that a noise schedule is looked for at
BETTER = 0.92  # another reading is named if its error is less than this share of the stated one's
CHOICE = 1.4  # handicap of a reading that chooses the best of many times: a brief training can gain by it, too
HELPFUL = 0.97  # labels help if the error with them is below this share of that with others
NEAR = 1.1  # readings whose errors are within this factor of the least are as good, and the simplest of them is named
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
    """

    times: tuple[float, ...]
    stated: Finding
    mistakes: tuple[str, ...]
    weights: int
    spread: float | None


def examine(teacher: Teacher, dataset: Dataset, *, seed: int = 0, on_progress: Callable[[int, int], None] | None = None) -> Diagnosis:
    """Examines a teacher on real data.

    Args:
        dataset: what it was trained for; held-out samples are used.
        seed: of the noise.
        on_progress: called with the number of the teacher's evaluations until now, and of all that there can be.

    Raises:
        DataError: the model's source is data, and the data set has none.
        IncompatibleError: the teacher answers in another shape.
    """
    most = LEVELS * (len(CLOCKS) + 3 + 5 + GRID)
    probe = Probe(teacher, as_trained(teacher, dataset), seed, None if on_progress is None else lambda n: on_progress(n, most))
    stated = Finding("as stated", "", probe.errors(Convention()))
    spread = probe.spread()
    if all(math.isfinite(e) for e in stated.errors):
        mistakes = _wrong_convention(probe, stated) or _useless_labels(probe, stated) or _wrong_spread(probe, spread)
    else:
        mistakes = ["answers are not finite at some of the times: weights that overflow, or a singular convention"]
    weights = sum(weight.numel() for weight in teacher.parameters())
    return Diagnosis(tuple(probe.times.tolist()), stated, tuple(mistakes), weights, spread)


# -- conventions ------------------------------------------------------------------------------------------------------------

CLOCKS: tuple[Convention, ...] = (
    Convention(),
    Convention("time runs the other way", "give time=lambda t: 1 - t", lambda t: 1 - t),
    Convention("time is counted to 1,000", "give time=lambda t: 999 * t", lambda t: 999 * t),
    Convention("time is counted to 1,000, the other way", "give time=lambda t: 999 * (1 - t)", lambda t: 999 * (1 - t)),
    Convention("time is divided by 1,000 once too often", "leave the factor out of time", lambda t: t / 1000),
)


def _conventions(probe: Probe) -> Iterator[Convention]:
    """Every convention that a teacher may have been meant in: times with rows, then labels, then units."""
    rows = list(_rows(probe.model))
    for clock in CLOCKS:
        for row in rows:
            reading, remedy = (" and ".join(filter(None, pair)) for pair in ((clock.reading, row.reading), (clock.remedy, row.remedy)))
            yield replace(row, reading=reading, remedy=remedy, clock=clock.clock)
    label = probe.batch.label
    if label is not None and not label.is_floating_point():
        classes = int(label.max() + 1)
        one_off = "labels are off by one: class k answers to the label"
        yield Convention(f"{one_off} k + 1", "renumber them", labels=lambda label: (label + 1) % classes)
        yield Convention(f"{one_off} k - 1", "renumber them", labels=lambda label: (label - 1) % classes)
    yield from _units(probe.dataset)


def _rows(model: MatchingModel) -> Iterator[Convention]:
    """The stated rows, their negatives, and the same for each other row in the place of a single head."""
    heads = model.objective.heads
    yield Convention()
    yield Convention("its sign is the opposite", "give output=-1", sign=-1.0)
    if len(heads) > 1:
        return
    stated = objectives.name_of(heads[0])
    for name, other in _other_objectives(model):
        yield Convention(f"it predicts {name}, not {stated}", f"state the objective {name}", heads=(other,))
        reading, remedy = f"it predicts minus {name}, not {stated}", f"state the objective {name} and output=-1"
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
        if not np.allclose((shift, scale), (dataset.shift, dataset.scale), rtol=0.02, atol=0.02 * scale):
            reading, remedy = f"it was trained on data scaled to {name}", f"give normalization=({shift:.6g}, {scale:.6g})"
            yield Convention(reading, remedy, normalization=(shift, scale))


def _normalizations(dataset: Dataset) -> dict[str, Normalization]:
    """The usual (shift, scale) of a data set."""
    low, high = dataset.limits
    x = dataset.denormalize(dataset.train.data.double())
    mean, std = float(x.mean()), float(x.std())
    return {
        "[-1, 1]": ((low + high) / 2, (high - low) / 2),
        "[0, 1]": (low, high - low),
        "the data's own units": (0.0, 1.0),
        "mean 0 and standard deviation 1": (mean, std),
        "mean 0 and standard deviation 1/2": (mean, 2 * std),
    }


# -- mistakes ---------------------------------------------------------------------------------------------------------------


def _wrong_convention(probe: Probe, stated: Finding) -> list[str]:
    """What is wrong with the convention, if another reading of the answers is clearly better than the stated one."""
    findings = [Finding(c.reading, c.remedy, probe.errors(c)) for c in _conventions(probe)] + [_other_schedule(probe)]
    least = min(finding.error for finding in findings)
    if least < min(BETTER * stated.error, LINEAR):
        simplest = next(finding for finding in findings if finding.error <= NEAR * least)
        return [f"{simplest.reading}; {simplest.remedy}"]
    if min(stated.errors) > LINEAR:
        return ["the teacher knows no more than a multiple of the state, at any time: its weights were probably not loaded"]
    return []


def _other_schedule(probe: Probe) -> Finding:
    """The times at which the teacher answers best; those of another noise schedule, if they are others."""
    t = probe.model.times
    grid = torch.linspace(t.t_min + 0.01 * (t.t_max - t.t_min), t.t_max, GRID, dtype=torch.float64)
    errors = np.array([probe.errors(Convention(clock=lambda now, then=float(then): torch.full_like(now, then))) for then in grid])  # type: ignore[misc]
    best = [float(grid[i]) for i in np.nan_to_num(errors, nan=np.inf).argmin(0)]
    pairs = ", ".join(f"{now:.2f} as {then:.2f}" for now, then in list(zip(probe.times.tolist(), best, strict=True))[1::3])
    reading = f"its noise schedule is another: it answers best at other times ({pairs})"
    return Finding(reading, "state its own interpolant", tuple(CHOICE * errors.min(0)))


def _useless_labels(probe: Probe, stated: Finding) -> list[str]:
    """Whether labels help."""
    if probe.batch.label is None:
        return []
    others = Finding("", "", probe.errors(Convention(labels=lambda label: label.flip(0))))
    if stated.error < HELPFUL * others.error:
        return []
    return ["labels make no difference: the teacher ignores them, or they are not those that it was trained with"]


def _wrong_spread(probe: Probe, spread: float | None) -> list[str]:
    """Whether 20 Euler steps end at about the size of the data, for a model whose samples do not hang on their source alone."""
    if spread is None or not probe.model.gaussian or 0.5 < spread < 2:
        return []
    return [f"samples of 20 Euler steps have {spread:.3g} times the data's standard deviation: times or moments may be wrong"]


def guess_normalization(teacher: Teacher, dataset: Dataset, *, seed: int = 0) -> Normalization | None:
    """Returns the (shift, scale) of the data for which a teacher's answers are right: one of four, by 64 samples at eight times each.

    These are the data set's own, that of [-1, 1], that of [0, 1], and that of data as they are. Returns None where none is clearly better
    than the others, or none is better than a multiple of the state.
    """
    probe, usual = Probe(teacher, dataset, seed, samples=FEW), _normalizations(dataset)
    candidates: list[Normalization] = [(dataset.shift, dataset.scale)]
    for shift, scale in (usual["[-1, 1]"], usual["[0, 1]"], usual["the data's own units"]):
        if not any(np.allclose((shift, scale), other, rtol=0.02, atol=0.02 * scale) for other in candidates):
            candidates.append((shift, scale))
    errors = [Finding("", "", probe.errors(Convention(normalization=x))).error for x in candidates]
    best, *others = sorted(errors)
    clear = best < LINEAR and all(best < BETTER * error for error in others)
    return candidates[errors.index(best)] if clear else None
