"""A run that takes a given time: what its parts cost on this machine is measured on the run's own code, and its lengths follow."""

from __future__ import annotations

import copy
import logging
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from matchlib.errors import Interrupted, SettingError
from matchlib.evaluation.report import evaluate, protocol_of
from matchlib.evaluation.score import reference_of
from matchlib.evaluation.work import Work
from matchlib.registry import networks
from matchlib.runs.build import device_of, sizes_of
from matchlib.runs.components import Components
from matchlib.runs.pipeline import Pipeline, with_teacher_at
from matchlib.runs.run import PROXIES, Run, watched
from matchlib.runs.settings import RunSettings

__all__ = ["Schedule", "fitted", "seconds_of", "seconds_per_step"]

WARM, MEASURED = 2, 6  # steps that are left out, and steps that are timed at least
UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
SHARES = {"teacher": 0.6, "student": 0.4}  # of the time for training
SCORING = 0.2  # of all the time, at most, for samples and scores
TRAINED = 0.94  # of the time for training that steps take; the rest is for measurements during it and for checkpoints
ENOUGH = 2500  # steps of a teacher, below which a smaller network does better
FEWEST = 200  # steps of a phase that are worth starting
WANTED = {"teacher": ENOUGH, "student": 1600}  # steps, for which batches are made smaller ...
SMALLEST = 32  # ... but not below this many samples
LOOK = 64  # samples that the cost of scoring is measured on first
LOOKS = 0.08  # of the time, which looks at the cost of scoring take at most, but for the first two
FEWEST_SAMPLES = 500  # in a score
CACHED = 0.2  # of the time that a teacher should take, in which it cannot have been trained: it was there
REVISED = 2.0  # times as many steps of a student as planned, at most, and half as many at least

logger = logging.getLogger("matchlib")


def seconds_of(text: str | float) -> float:
    """Returns the seconds of a length of time such as ``90s``, ``30m`` or ``1h30m``; a number is seconds.

    Raises:
        SettingError: it is none.
    """
    if isinstance(text, int | float) and not isinstance(text, bool) and 0 < text < math.inf:
        return float(text)
    if not isinstance(text, str):
        raise SettingError(f"a time is a number of seconds, or written as 90s, 30m or 1h30m, got {text!r}")
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip())
    seconds = 0.0 if parts is None else sum(float(x) * unit for x, unit in zip(parts.groups(), UNITS.values(), strict=True) if x)
    if not seconds > 0:
        raise SettingError(f"a time is written as 90s, 30m or 1h30m, got {text!r}")
    return seconds


def seconds_per_step(
    settings: RunSettings, components: Components, phase: str, *, enough: float = math.inf, should_stop: Callable[[], bool] = lambda: False
) -> float:
    """Returns the mean time of an optimiser step, in seconds, from a few steps in a folder that is thrown away.

    Args:
        phase: ``teacher`` or ``student``; the steps of student and critic count alike.
        enough: seconds of a single step that end the measurement, and are returned then.
        should_stop: asked after every step.

    Raises:
        Interrupted: ``should_stop`` said so.
    """
    device, stamps = device_of(settings.device), list[float]()

    def stamp() -> bool:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        stamps.append(time.perf_counter())
        if should_stop():
            raise Interrupted("interrupted while the machine was measured; nothing was written")
        return len(stamps) > 1 and stamps[-1] - stamps[-2] > enough

    of = components.distillation
    cycle = {"teacher": 1, "student": 1 if of is None else of.critic_steps + 1}[phase]  # a student's steps cost more than its critic's
    timed = cycle * math.ceil(MEASURED / cycle)
    steps = {"steps": WARM + timed, "monitor_every": 0, "log_every": 10**6, "checkpoint_every": 10**6, "trackers": ()}
    short = _with(settings, {"teacher": steps, "student": {**steps, "keep_best_by": None}})
    short = short.model_copy(update={"evaluation": settings.evaluation.model_copy(update={"every": 0})})
    copied = replace(components, teacher=copy.deepcopy(components.teacher), distillation=copy.deepcopy(components.distillation))
    with tempfile.TemporaryDirectory() as folder:
        try:
            Run(short, copied, Path(folder), should_stop=stamp).train(phase)
        except Interrupted:
            if len(stamps) < 2 or stamps[-1] - stamps[-2] <= enough:
                raise
            return stamps[-1] - stamps[-2]
    return (stamps[-1] - stamps[WARM - 1]) / timed


@dataclass(frozen=True)
class Costs:
    """What the parts of a run cost, in seconds.

    Args:
        step: one optimiser step of each phase that is to be trained.
        scoring: samples and scores, as ``fixed + each * n`` for n samples of teacher and of student.
    """

    step: dict[str, float]
    scoring: tuple[float, float]


def measured(settings: RunSettings, components: Components, seconds: float, should_stop: Callable[[], bool]) -> Costs:
    """Returns what the parts of a run cost here.

    Args:
        seconds: that the run may take, of which the measurement takes a small part.
        should_stop: asked between its parts.
    """
    phases, step = _phases(settings, components), {}
    for phase in phases:
        enough = _time_of(phase, phases, seconds) / WANTED[phase] if _batch_is_free(settings, phase) else math.inf  # it is halved then
        step[phase] = seconds_per_step(settings, components, phase, enough=enough, should_stop=should_stop)
    return Costs(step, _cost_of_scoring(settings, components, seconds, watched(None, should_stop)))


def _phases(settings: RunSettings, components: Components) -> list[str]:
    """What a run trains."""
    there = {"teacher": components.trains_teacher, "student": settings.command == "distill"}
    return [phase for phase in there if there[phase]]


def _cost_of_scoring(settings: RunSettings, components: Components, seconds: float, work: Work) -> tuple[float, float]:
    """Returns (fixed, each) of scores, from looks at more and more samples until they have taken their part of the time.

    A first one is not counted: packages are imported in it.
    """
    reference_of(components.data, extractor=settings.evaluation.extractor, work=work)  # features are learned, and remain in the cache
    size, _ = protocol_of(settings.evaluation, len(components.data.held_out.data))
    _seconds_of_scoring(settings, components, min(LOOK // 4, size), work)
    begin = time.perf_counter()
    looks = [(n := min(LOOK, size), _seconds_of_scoring(settings, components, n, work))]
    for n in (*(n for n in (4 * LOOK, 16 * LOOK) if n < size), size):
        expected = looks[-1][1] * n / looks[-1][0]
        if n > looks[-1][0] and time.perf_counter() - begin + expected < LOOKS * seconds:
            looks.append((n, _seconds_of_scoring(settings, components, n, work)))
    (few, least), (most, longest) = looks[0], looks[-1]
    if most == few:
        return 0.0, longest / most
    each = max(longest - least, 0.0) / (most - few)
    return max(least - each * few, 0.0), each


def _seconds_of_scoring(settings: RunSettings, components: Components, n: int, work: Work) -> float:
    parts, device = components.distillation, device_of(settings.device)
    parts_of: dict[str, Any] = {"teacher": (components.config, components.teacher)}
    if parts is not None:
        parts_of["student"] = parts.config, parts.student
    pipelines = {kind: Pipeline(config, copy.deepcopy(module), device, data=components.data) for kind, (config, module) in parts_of.items()}
    pipelines = with_teacher_at(pipelines, settings.evaluation.teacher_steps)
    protocol = settings.evaluation.model_copy(update={"samples": n, "draws": 1})
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        evaluate(Path(folder), pipelines, components.data, protocol, settings.seed, device=device, work=work)
        return time.perf_counter() - begin


@dataclass(frozen=True)
class Schedule:
    """When the parts of a run should be done.

    Args:
        end: of the run, as ``time.perf_counter`` tells it.
        teacher: seconds for the teacher's training.
        student: seconds of a step of the student.
        scoring: seconds for samples and scores.
    """

    end: float
    teacher: float
    student: float
    scoring: float

    def revised(self, settings: RunSettings, took: float) -> RunSettings:
        """Returns settings whose student has the steps for which there is time now that its teacher is trained.

        The machine is taken to be as much slower or faster than it was measured, for example beside other work, as it was for the teacher.

        Args:
            took: seconds of the teacher's training.
        """
        pace = took / self.teacher if took > CACHED * self.teacher else 1.0
        left = (self.end - time.perf_counter() - self.scoring * pace) * TRAINED
        planned = settings.trainer.steps
        steps = int(min(max(left / (self.student * pace), planned / REVISED, FEWEST), planned * REVISED))
        if steps != planned:
            said = f"the teacher took {_shown(took)} in place of {_shown(self.teacher)}"
            logger.info("time: %s, so the student has %s steps in place of %s", said, f"{steps:,}", f"{planned:,}")
        return _with(settings, {"student": {"steps": steps}})


def fitted(
    settings: RunSettings, rebuild: Callable[[RunSettings], Components], seconds: float, should_stop: Callable[[], bool] = lambda: False
) -> tuple[RunSettings, Schedule | None]:
    """Returns settings with numbers of steps and of samples such that the run takes about so many seconds on this machine.

    What the settings name themselves stays as it is, and the rest gets the time that it leaves. The schedule, with which the student's
    steps can be revised, is None where a teacher is not to be trained, or the student's steps are given.

    Args:
        settings: of the run.
        rebuild: makes the components of settings.
        seconds: for everything from now on, measurements and scores included.
        should_stop: asked between parts of the measurement.

    Raises:
        Interrupted: ``should_stop`` said so.
        SettingError: the time is too short for anything useful.
    """
    begin = time.perf_counter()
    components = rebuild(settings)
    given = {phase: training.steps for phase, training in _trainings(settings).items() if "steps" in training.model_fields_set}
    if not set(_phases(settings, components)) - set(given):
        raise SettingError("a time decides the steps, and all of them are given here, or there are none: leave the time out")
    logger.info("time: measuring what steps, samples and scores cost on this machine")
    settings, components = _network(settings, components, rebuild, seconds, should_stop)
    costs = measured(settings, components, seconds, should_stop)
    settings, costs = _batches(settings, components, costs, seconds, should_stop)
    costs = _with_scores_on_the_way(settings, components, costs)
    size, draws, scoring = _samples(settings, components, costs, seconds)
    left = (seconds - (time.perf_counter() - begin) - scoring) * TRAINED
    left -= sum(costs.step[phase] * steps for phase, steps in given.items() if phase in costs.step)
    free = {phase: SHARES[phase] for phase in costs.step if phase not in given}
    steps = {phase: int(left * share / sum(free.values()) / costs.step[phase]) for phase, share in free.items()}
    short = sum(max(FEWEST - count, 0) * costs.step[phase] for phase, count in steps.items())
    if short > 0 or left < 0:
        least = seconds + 1.3 * short - min(left, 0)
        raise SettingError(f"{_shown(seconds)} is too short on this machine: the least that makes sense is about {_shown(least)}")
    chosen = {**given, **steps}
    parts = [f"{phase} {chosen[phase]:,} steps ({_shown(chosen[phase] * cost / TRAINED)})" for phase, cost in costs.step.items()]
    logger.info("time: %s; scores of %s samples (%s)", ", ".join(parts), f"{draws * size:,}", _shown(scoring))
    evaluation = settings.evaluation.model_copy(update={"samples": size, "draws": draws})
    updates = {phase: {"steps": count} for phase, count in steps.items()}
    schedule = None
    if "teacher" in costs.step and "student" in steps:
        schedule = Schedule(begin + seconds, chosen["teacher"] * costs.step["teacher"] / TRAINED, costs.step["student"], scoring)
    return _with(settings, updates).model_copy(update={"evaluation": evaluation}), schedule


def _with_scores_on_the_way(settings: RunSettings, components: Components, costs: Costs) -> Costs:
    """Returns costs in which a step of the student has its part of the scores that the settings ask for while it is trained."""
    if "student" not in costs.step:
        return costs
    (fixed, each), t = costs.scoring, settings.trainer
    size, _ = protocol_of(settings.evaluation, len(components.data.held_out.data))
    scores = ((settings.evaluation.every, min(PROXIES, size)), (t.checkpoint_every if t.keep_best_by else 0, size))
    more = sum((fixed + each * n / 3) / steps for steps, n in scores if steps)  # a third is the student's
    return replace(costs, step={**costs.step, "student": costs.step["student"] + more})


def _network(
    settings: RunSettings,
    components: Components,
    rebuild: Callable[[RunSettings], Components],
    seconds: float,
    should_stop: Callable[[], bool],
) -> tuple[RunSettings, Components]:
    """Returns settings with the network that is slowest among those that can be trained long enough, and the components.

    The recommended sizes of each network are tried from the smallest on, until one is too slow.
    """
    if not components.trains_teacher or "network" in settings.teacher.model_fields_set:
        return settings, components
    slowest = SHARES["teacher"] * seconds / ENOUGH
    chosen: tuple[float, RunSettings, Components] | None = None
    for name in networks:
        for network in sizes_of(name, components.config.network_spec):
            tried = settings.model_copy(update={"teacher": settings.teacher.model_copy(update={"network": network})})
            components_tried = rebuild(tried)
            step = seconds_per_step(tried, components_tried, "teacher", enough=slowest, should_stop=should_stop)
            if step > slowest:
                break
            if chosen is None or step > chosen[0]:
                chosen = step, tried, components_tried
    return (settings, components) if chosen is None else chosen[1:]


def _batches(
    settings: RunSettings, components: Components, costs: Costs, seconds: float, should_stop: Callable[[], bool]
) -> tuple[RunSettings, Costs]:
    """Returns settings with batches that leave time for enough steps, and what steps cost then.

    A batch is halved until its phase's share of the time holds the steps that are wanted.
    """
    step = dict(costs.step)
    for phase, training in _trainings(settings).items():
        if phase not in step or not _batch_is_free(settings, phase):
            continue
        size, time_of_phase = training.batch_size, _time_of(phase, step, seconds)
        while size > SMALLEST and step[phase] * size / training.batch_size * WANTED[phase] > time_of_phase:
            size = max(SMALLEST, size // 2)
        if size < training.batch_size:
            settings = _with(settings, {phase: {"batch_size": size}})
            step[phase] = seconds_per_step(settings, components, phase, should_stop=should_stop)
            logger.info("time: batches of %d samples for the %s, so that there is time for more steps", size, phase)
    return settings, replace(costs, step=step)


def _time_of(phase: str, phases: Iterable[str], seconds: float) -> float:
    """Returns the seconds of a phase, about, where its steps are not given."""
    return (1 - SCORING) * seconds * SHARES[phase] / sum(SHARES[each] for each in phases)


def _batch_is_free(settings: RunSettings, phase: str) -> bool:
    return not {"batch_size", "steps"} & _trainings(settings)[phase].model_fields_set


def _samples(settings: RunSettings, components: Components, costs: Costs, seconds: float) -> tuple[int, int, float]:
    """Returns samples in a score, draws, and the seconds that they take: fewer draws, then fewer samples, where time is short."""
    size, draws = protocol_of(settings.evaluation, len(components.data.held_out.data))
    fixed, each = costs.scoring

    def cost() -> float:
        return fixed + each * size * (1 + 2 * draws) / 3  # held-out data are scored once, teacher and student in every draw

    allowed, named = SCORING * seconds, settings.evaluation.model_fields_set
    while "draws" not in named and draws > 1 and cost() > allowed:
        draws -= 1
    if "samples" not in named and cost() > allowed:
        size = max(min(size, FEWEST_SAMPLES), min(size, int(size * (allowed - fixed) / (cost() - fixed))))
    return size, draws, cost()


def _trainings(settings: RunSettings) -> dict[str, Any]:
    return {"teacher": settings.teacher.training, "student": settings.trainer}


def _with(settings: RunSettings, updates: dict[str, dict[str, Any]]) -> RunSettings:
    """Returns settings with other values in the training of a phase."""
    changed = {phase: training.model_copy(update=updates.get(phase)) for phase, training in _trainings(settings).items()}
    teacher = settings.teacher.model_copy(update={"training": changed["teacher"]})
    return settings.model_copy(update={"teacher": teacher, "trainer": changed["student"]})


def _shown(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
