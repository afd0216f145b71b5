"""Callbacks: what happens in a training besides its steps, such as log, progress, monitor and alarms, and the choice of a checkpoint."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from matchlib.io import append_text, read_text, write_text
from matchlib.training.alarms import Raised
from matchlib.training.checkpoint import Checkpoints
from matchlib.training.monitor import Monitor, unchanged_buffers
from matchlib.training.random import may_draw, seeded
from matchlib.training.settings import TrainerSettings
from matchlib.training.trainer import Callback, Trainer

__all__ = [
    "ROLLED_BACK",
    "JSONLog",
    "KeepBest",
    "Monitoring",
    "Progress",
    "ProgressCallback",
    "ProxyScoring",
    "Reporting",
    "RollBack",
    "StopOnAlarm",
    "alarm_names",
    "is_measured",
    "standard_callbacks",
]

Score = Callable[[Mapping[str, nn.Module]], float]
ROLLED_BACK = "rolled_back_from"  # key of rows of the log: the step at which an alarm rang that the training went back from


class JSONLog(Callback):
    """Appends rows to a file, one JSON object a line.

    Args:
        path: ``metrics.jsonl`` of a run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._failed = False  # whether the last line may be cut short

    def on_log(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        error = trainer.strategy.on_main_process(lambda: self._append(row))
        if error and not self._failed:
            trainer.warn(f"{self.path} cannot be written ({error}); rows of the log are missing until there is room")
        self._failed = bool(error)

    def _append(self, row: Mapping[str, Any]) -> str:
        """Appends a row, and returns what went wrong."""
        try:
            append_text(self.path, "\n" * self._failed + json.dumps(row) + "\n")
        except OSError as error:
            return str(error)
        return ""

    def on_roll_back(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        """Keeps the alarm, whose row is dropped; once, though a killed run may go back again."""
        if not trainer.strategy.on_main_process(lambda: self._holds(row)):
            self.on_log(trainer, row)

    def _holds(self, row: Mapping[str, Any]) -> bool:
        return self.path.exists() and json.dumps(row) in read_text(self.path, errors="replace").splitlines()

    def on_restore(self, trainer: Trainer) -> None:
        trainer.strategy.on_main_process(lambda: self.rewind(trainer.phase, trainer.steps_done))

    def rewind(self, phase: str, step: int) -> None:
        """Drops the phase's rows after ``step`` and lines that are no rows, so that a resumed run's log has no row twice."""
        if not self.path.exists():
            return
        lines = read_text(self.path, errors="replace").splitlines()
        kept = [line for line in lines if _is_before(line, phase, step)]
        if kept != lines:
            write_text(self.path, "".join(f"{line}\n" for line in kept))


def _is_before(line: str, phase: str, step: int) -> bool:
    """Whether a line is a row of another phase, or of this one up to ``step``."""
    try:
        row = json.loads(line)
        return bool(row["phase"] != phase or row["step"] <= step)
    except (ValueError, TypeError, LookupError, RecursionError):
        return False


@dataclass(frozen=True)
class Progress:
    """What a display may show.

    Args:
        phase: of the run.
        step, steps: done, and in all.
        losses: mean since the last row, by learner.
        seconds: since the phase began, or went on.
        note: what is done, where nothing is trained.
        readings: latest of the monitor, by name.
        alarms: of the latest measurement, by name.
        later: steps of the phases that come after this one.
    """

    phase: str
    step: int
    steps: int
    losses: dict[str, float]
    seconds: float
    note: str = ""
    readings: Mapping[str, float] = field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    later: int = 0

    @classmethod
    def of(cls, row: Mapping[str, Any], steps: int, later: int = 0, before: Mapping[str, Any] | None = None) -> Progress | None:
        """Returns what a row of the log says; None for a row without losses.

        Args:
            steps, later: as above.
            before: the latest row with readings, for a row that has none.
        """
        if not isinstance(row.get("seconds"), int | float):
            return None
        measured = before if before and not is_measured(row) else row
        losses, readings = _numbers(row, "loss/"), _numbers(measured, "monitor/")
        return cls(row["phase"], row["step"], steps, losses, row["seconds"], "", readings, alarm_names(measured), later)

    def __str__(self) -> str:
        losses = "  ".join(f"{name} {loss:.4g}" for name, loss in self.losses.items())
        return f"{self.phase} {self.step}/{self.steps}  {losses or self.note}"


def alarm_names(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the names of the alarms that a row of the log has."""
    names = row.get("alarms")
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list | tuple) else ()


def _numbers(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix) and isinstance(value, int | float)}


def is_measured(row: Mapping[str, Any]) -> bool:
    """Returns whether a row of the log has what the monitor measured."""
    return "alarms" in row or any(key.startswith("monitor/") for key in row)


class ProgressCallback(Callback):
    """Hands a ``Progress`` to a function at every row with losses, in the first process.

    Args:
        on_progress: the function.
        later: steps of the phases that come after this one.
    """

    def __init__(self, on_progress: Callable[[Progress], None], later: int = 0) -> None:
        self.on_progress, self.later = on_progress, later
        self._measured: Mapping[str, Any] | None = None

    def on_log(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        self._measured = row if is_measured(row) else self._measured
        progress = Progress.of(row, trainer.settings.steps, self.later, self._measured)
        if progress is not None and trainer.strategy.rank == 0:
            self.on_progress(progress)


class Monitoring(Callback):
    """Measures the training now and then, logs the readings, and warns of alarms that are new.

    Args:
        monitor: what measures.
        every: steps between measurements, at least as many as give each learner one; 0 for none.

    Attributes:
        well: step of the last measurement without an alarm.
        alarms: of the measurement after this step.
        measured: what the row of the last measurement has of it.
    """

    def __init__(self, monitor: Monitor, every: int) -> None:
        self.monitor, self.every = monitor, every
        self.well, self.alarms = 0, tuple[Raised, ...]()
        self.measured: Mapping[str, Any] = {}
        self._announced: set[str] = set()
        self._skipped: dict[str, int] = {}  # steps, up to the last measurement
        self._monitor_state: dict[str, Any] = {}  # as it was loaded

    def on_fit_start(self, trainer: Trainer) -> None:
        """Leaves every learner at least one step between two measurements."""
        self.every = self.every and max(self.every, trainer.task.cycle)

    def on_step_end(self, trainer: Trainer) -> Mapping[str, Any]:
        self.alarms = ()
        if not self.every or trainer.steps_done % self.every:
            return {}
        trainer.freeze()
        before, self._skipped = self._skipped, trainer.skipped()
        skipped = {name: count - before.get(name, 0) for name, count in self._skipped.items() if count > before.get(name, 0)}
        modules = [state.learner.module for state in trainer.states.values()]
        drawn = any(map(may_draw, modules))
        draws = seeded(trainer.task.streams("watch-network", trainer.steps_done)) if drawn else nullcontext()
        with unchanged_buffers(modules), draws:
            readings = self.monitor.measure(trainer.steps_done, skipped)
        self.alarms, names = readings.alarms, [alarm.name for alarm in readings.alarms]
        if not names:
            self.well = trainer.steps_done
        self.measured = {f"monitor/{name}": value for name, value in readings.values.items()} | ({"alarms": names} if names else {})
        return self.measured

    def on_log(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        if self.every and trainer.steps_done % self.every == 0:
            announced, self._announced = self._announced, {alarm.name for alarm in self.alarms}
            trainer.alarm(*(alarm for alarm in self.alarms if alarm.name not in announced))

    def on_restore(self, trainer: Trainer) -> None:
        self.alarms = ()

    def state_dict(self) -> dict[str, Any]:
        announced = sorted(self._announced)
        return {"well": self.well, "announced": announced, "skipped": self._skipped, "monitor": self.monitor.state_dict()}

    def tensors(self) -> dict[str, Tensor]:
        return self.monitor.tensors()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.well, self._announced = state["well"], set(state.get("announced", ()))  # a checkpoint may be older than these
        self._skipped, self._monitor_state = dict(state.get("skipped", {})), state.get("monitor", {})

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self.monitor.load_state(self._monitor_state, tensors)


class StopOnAlarm(Callback):
    """Ends the training at the first alarm."""

    def on_alarm(self, trainer: Trainer, alarm: Raised) -> None:
        raise trainer.diverged(f"alarm ({alarm.name}): {alarm.message}", NEW_RUN)


NEW_RUN = ". Settings belong to a run: change them in a new one (--out)"


class RollBack(Callback):
    """Goes back at an alarm of the monitor that lower learning rates may cure, with half of them.

    A checkpoint is trusted if a later measurement found nothing wrong: an alarm comes after its cause, which the latest checkpoint may hold
    already.

    Args:
        monitoring: whose alarms these are.
        most: roll-backs, after which the training ends.
    """

    def __init__(self, monitoring: Monitoring, most: int = 3) -> None:
        self.monitoring, self.most, self.times = monitoring, most, 0

    def on_fit_start(self, trainer: Trainer) -> None:
        if not trainer.steps_done:
            trainer.try_to_save()  # so that there is always something to go back to

    def on_checkpoint(self, trainer: Trainer) -> None:
        assert trainer.checkpoints is not None
        trusted = next(trainer.checkpoints.trusted(self.monitoring.well, trainer.settings.checkpoint_every), None)
        trainer.checkpoints.protect("roll-back", trusted)

    def on_alarm(self, trainer: Trainer, alarm: Raised) -> None:
        if not alarm.curable or alarm not in self.monitoring.alarms or trainer.checkpoints is None:
            return
        good = trainer.checkpoints.most_trusted(self.monitoring.well, trainer.settings.checkpoint_every)
        if good is None:
            raise trainer.diverged("there is nothing to roll back to", "")
        if self.times >= self.most:
            raise trainer.diverged(f"rolled back {self.most} times in vain", NEW_RUN)
        times, scale, step = self.times + 1, trainer.lr_scale / 2, trainer.steps_done
        trainer.restore(good)
        self.times, trainer.lr_scale = times, scale
        trainer.rolled_back({ROLLED_BACK: step, "lr_scale": scale, **self.monitoring.measured})
        trainer.note(f"rolled back to {good}; the learning rates are {scale:g} of what they were")

    def state_dict(self) -> dict[str, Any]:
        return {"times": self.times}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.times = state["times"]


class KeepBest(Callback):
    """Scores every regular checkpoint, keeps the best, and ends the training with it.

    Args:
        score: of the learners' averaged modules, called in all processes; the lower, the better.
    """

    def __init__(self, score: Score) -> None:
        self.score = score
        self.best: tuple[int, float] | None = None  # step and score
        self.before: tuple[int, float] | None = None  # the best before it, while its own file is not written

    def on_checkpoint(self, trainer: Trainer) -> None:
        assert trainer.checkpoints is not None
        if self.best and not trainer.checkpoints.file(self.best[0]).exists():
            self.best = self.before  # it could not be written
        self.before = None
        if trainer.at_regular_checkpoint:  # so that an interruption does not change what is scored
            value = self.score(trainer.averaged())
            if math.isfinite(value) and (self.best is None or value < self.best[1]):
                self.before, self.best = self.best, (trainer.steps_done, value)
        self._protect(trainer.checkpoints)

    def on_checkpoint_written(self, trainer: Trainer) -> None:
        assert trainer.checkpoints is not None
        self.before = None
        self._protect(trainer.checkpoints)

    def _protect(self, checkpoints: Checkpoints) -> None:
        for reason, kept in (("best", self.best), ("best before", self.before)):
            checkpoints.protect(reason, checkpoints.file(kept[0]) if kept else None)

    def on_restore(self, trainer: Trainer) -> None:
        if self.best and trainer.checkpoints and not trainer.checkpoints.file(self.best[0]).exists():
            self.best = None  # an older history may name a file that a better one has replaced

    def on_fit_end(self, trainer: Trainer) -> None:
        if self.best and trainer.checkpoints and self.best[0] != trainer.steps_done:
            step, value = self.best
            trainer.checkpoints.restore(trainer.states, trainer.checkpoints.file(step))
            trainer.note(f"{trainer.phase}: the checkpoint after step {step} has the best score ({value:.4g}), and is what is kept")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = tuple(state["best"]) if state["best"] else None


class ProxyScoring(Callback):
    """Adds scores of a few samples to the log, now and then.

    Args:
        scores: of the learners' averaged modules, by name; called in all processes.
        every: steps between scores.
    """

    def __init__(self, scores: Callable[[Mapping[str, nn.Module]], Mapping[str, float]], every: int) -> None:
        self.scores, self.every = scores, every

    def on_step_end(self, trainer: Trainer) -> Mapping[str, Any]:
        if trainer.steps_done % self.every:
            return {}
        return {f"score/{name}": value for name, value in self.scores(trainer.averaged()).items()}


class Reporting(Callback):
    """Calls a function after checkpoints, as often as a small share of the training's time allows.

    Args:
        report: called in all processes.
        share: of the time since the training began, at most, that all calls take together, if each takes as long as the one before.
        guess: seconds that the first call may take.
    """

    def __init__(self, report: Callable[[Trainer], None], share: float = 0.01, guess: float = 0.25) -> None:
        self.report, self.share = report, share
        self._last, self._spent, self._begin = guess, 0.0, time.perf_counter()

    def on_fit_start(self, trainer: Trainer) -> None:
        self._begin = time.perf_counter()

    def on_checkpoint_written(self, trainer: Trainer) -> None:
        begin = time.perf_counter()
        if trainer.strategy.on_main_process(lambda: self._spent + self._last <= self.share * (begin - self._begin)):
            self.report(trainer)
            self._last = time.perf_counter() - begin
            self._spent += self._last


def standard_callbacks(
    settings: TrainerSettings,
    *,
    log: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    monitor: Monitor | None = None,
    score: Score | None = None,
    scoring: Callback | None = None,
    report: Callable[[Trainer], None] | None = None,
    trackings: Sequence[Callback] = (),
    later: int = 0,
) -> list[Callback]:
    """Returns the callbacks that settings ask for.

    Args:
        log: file for rows of the log; None for none.
        later: steps of the phases that come after this one, for progress.
        trackings: that show the rows of the log elsewhere.
        scoring: that adds scores to the log.
        on_progress, monitor, score, report: likewise, of ``ProgressCallback``, ``Monitoring``, ``KeepBest`` and ``Reporting``.
    """
    callbacks: list[Callback] = [*([JSONLog(log)] if log else []), *trackings]
    callbacks += [ProgressCallback(on_progress, later)] if on_progress else []
    callbacks += [scoring] if scoring else []
    monitoring = Monitoring(monitor, settings.monitor_every) if monitor else None
    callbacks += [monitoring] if monitoring else []
    if settings.on_alarm == "stop":
        callbacks.append(StopOnAlarm())
    elif settings.on_alarm == "roll-back" and monitoring:
        callbacks.append(RollBack(monitoring))
    return callbacks + ([KeepBest(score)] if score else []) + ([Reporting(report)] if report else [])
