"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.errors import ArtifactError, DivergedError, SettingError, nearest
from matchlib.training.checkpoint import Checkpoints, TrainState, whole
from matchlib.training.distributed import SingleProcess
from matchlib.training.log import Log
from matchlib.training.monitor import Alarm, Monitor, Readings
from matchlib.training.random import BatchSlice
from matchlib.training.task import Task

__all__ = ["Interrupted", "Progress", "Trainer", "TrainerSettings"]


POLICIES = ("warn", "stop", "roll-back")
ROLL_BACKS = 3
STOP_EVERY = 10  # turns after which several processes ask each other whether one was told to stop


class Interrupted(Exception):
    """The run was asked to stop; a checkpoint is written."""


@dataclass(frozen=True)
class TrainerSettings:
    """How long and how carefully to train.

    Args:
        steps: turns in all, >= 1.
        warmup: steps over which the rates rise linearly from 0, >= 0.
        lr_decay: share of the steps, at the end, over which the rates fall linearly to 0, in [0, 1].
        max_grad_norm: largest norm of a gradient, > 0; inf for none.
        adaptive_clip: largest norm of a gradient over the running root mean square of those before it, > 1; inf for none. Adam has not
            seen a sudden surge yet, so its step would be up to (1 - beta_2)^(-1/2) times too long (clipping by past norms: Seetharaman
            et al., "AutoClip", 2020, https://arxiv.org/abs/2007.14469).
        log_every, checkpoint_every: steps between rows of the log and between checkpoints, >= 1.
        micro_batch_size: samples that are worked on at once, >= 1, to save memory; it changes no random number. None for all.
        monitor_every: steps between looks of the watch, >= 1; 0 for none.
        on_alarm: on an alarm: ``warn``; ``stop``; or ``roll-back`` to the last checkpoint that a later look found well, with half of the
            rates, at most three times.
    """

    steps: int
    warmup: int = 100
    lr_decay: float = 0.0
    max_grad_norm: float = math.inf
    adaptive_clip: float = math.inf
    log_every: int = 100
    checkpoint_every: int = 1000
    micro_batch_size: int | None = None
    monitor_every: int = 100
    on_alarm: str = "warn"

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.on_alarm not in POLICIES:
            raise SettingError(f"on_alarm must be one of {', '.join(POLICIES)}, got {self.on_alarm!r}{nearest(self.on_alarm, POLICIES)}")
        if self.monitor_every < 0:
            raise SettingError(f"monitor_every must be at least 0, got {self.monitor_every}")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise SettingError(f"micro_batch_size must be at least 1, got {self.micro_batch_size}")
        if not self.adaptive_clip > 1:
            raise SettingError(f"adaptive_clip must be greater than 1, got {self.adaptive_clip}")
        if self.warmup < 0 or not 0 <= self.lr_decay <= 1 or not self.max_grad_norm > 0:
            raise SettingError(
                f"warmup >= 0, 0 <= lr_decay <= 1 and max_grad_norm > 0 are required, "
                f"got warmup={self.warmup}, lr_decay={self.lr_decay}, max_grad_norm={self.max_grad_norm}"
            )

    def factor(self, step: int) -> float:
        """Returns what the rates are multiplied by at ``step``, in (0, 1]."""
        rise = (step + 1) / self.warmup if step < self.warmup else 1.0
        fall = (self.steps - step) / max(self.lr_decay * self.steps, 1.0)
        return min(rise, fall, 1.0)


@dataclass(frozen=True)
class Progress:
    """What a display may show: the phase, steps done and in all, and the mean losses since the last row by learner."""

    phase: str
    step: int
    steps: int
    losses: dict[str, float]
    seconds: float


class Trainer:
    """Runs an algorithm: optimisers, averages, clipping, log, checkpoints, resume.

    Args:
        algorithm: what a step is.
        settings: how many, and the rest.
        phase: name of this training in log and checkpoints.
        checkpoints: where to write and resume from; None for neither.
        log: where rows go.
        show: called with a Progress at every row of the log.
        stop: asked after every step; True ends the run with a checkpoint.
        parallel: the processes that share the work; the algorithm's modules have been placed by it.
        watch: looks at the training now and then, and raises alarms.
        say: called with one line for every alarm that is new.
        judge: called with the learners' averaged modules at every checkpoint, in all processes; the lower its answer, the better. The best
            checkpoint is kept, and what the training ends with.

    Raises:
        SettingError: the batch cannot be cut into the shares that are asked for.
    """

    def __init__(
        self,
        algorithm: Task,
        settings: TrainerSettings,
        *,
        phase: str = "train",
        checkpoints: Checkpoints | None = None,
        log: Log | None = None,
        show: Callable[[Progress], None] = lambda progress: None,
        stop: Callable[[], bool] = lambda: False,
        parallel: SingleProcess | None = None,
        watch: Monitor | None = None,
        say: Callable[[str], None] = lambda line: None,
        judge: Callable[[Mapping[str, nn.Module]], float] | None = None,
    ) -> None:
        self.algorithm, self.settings, self.phase = algorithm, settings, phase
        self.checkpoints, self.log, self.show, self.stop = checkpoints, log or Log(None), show, stop
        self.parallel = parallel or SingleProcess()
        self.watch, self.say, self.judge = watch, say, judge
        self.share = BatchSlice.of(algorithm.size, self.parallel.rank, self.parallel.size)
        self.parts = list(self.share.parts(settings.micro_batch_size))
        _require_whole_groups(self.parts, algorithm.block_size)
        self.states = {name: TrainState(learner, self.parallel) for name, learner in algorithm.learners.items()}
        self.step = 0
        self._turned = ""
        self._scale, self._roll_backs = 1.0, 0  # of the rates, after roll-backs
        self._best: tuple[int, float] | None = None  # step and judgement
        self._well = 0  # step of the last look that raised no alarm
        self._told: set[str] = set()  # alarms that were on at the last look
        self._skipped: dict[str, int] = {}  # turns, at the last look
        self._sums: dict[str, Tensor] = {}  # of each learner's finite losses, and how many they are

    def fit(self) -> dict[str, nn.Module]:
        """Trains to the end, from the latest checkpoint if there is one.

        Returns:
            Copies of the learners' modules with averaged weights, by name.

        Raises:
            Interrupted: ``stop`` said so; a checkpoint is written.
            DivergedError: nothing is finite any more; the message names the last good checkpoint.
        """
        if self.checkpoints is not None:
            self._restore()
        if not self.step and self.settings.on_alarm == "roll-back":
            self._save(last=False)  # so that there is always something to roll back to
        start = time.perf_counter()
        while self.step < self.settings.steps:
            self._turn()
            last = self.step == self.settings.steps
            look = self._look()
            if last or self.step % self.settings.log_every == 0:
                self._report(time.perf_counter() - start, look)
            elif look is not None:
                self._write({}, look)
            if look is not None:
                self._heed(look)
                if look.alarms and self._roll_back():
                    continue
            stopped = self._stopped() and not last
            if last or stopped or self.step % self.settings.checkpoint_every == 0:
                self._save(last=last or stopped)
            if stopped:
                raise Interrupted(f"interrupted after step {self.step} of {self.settings.steps} ({self.phase})")
        self._take_best()
        return self._averaged()

    def _averaged(self) -> dict[str, nn.Module]:
        return {name: state.ema.copy() for name, state in self.states.items()}

    def _take_best(self) -> None:
        """Goes back to the checkpoint that was judged best, if checkpoints are judged."""
        if self._best is None or self.checkpoints is None or self._best[0] == self.step:
            return
        best, value = self._best
        self.checkpoints.restore(self.states, self.checkpoints.file(best))
        self.say(f"{self.phase}: the checkpoint after step {best} was judged best ({value:.4g}), and is what is kept")

    def _restore(self, path: Path | None = None) -> None:
        assert self.checkpoints is not None
        self.step, history = self.checkpoints.restore(self.states, path)
        self._sums = {name: self._sum(name, *pair) for name, pair in history.get("sums", {}).items()}
        self._scale, self._roll_backs = history.get("scale", 1.0), history.get("roll_backs", 0)
        best = history.get("best")
        if best and not self.checkpoints.file(best[0]).exists():
            best = None  # an older history may name a file that a better one has replaced
        self._best = tuple(best) if best else None
        self._well = history.get("well", self.step)
        self._skipped = {name: int(state.skipped) for name, state in self.states.items()}
        self.parallel.on_main_process(self._rewind)

    def _look(self) -> Readings | None:
        """Lets the watch look, if it is time."""
        every = self.settings.monitor_every
        if self.watch is None or not every or self.step % every:
            return None
        for state in self.states.values():
            self.parallel.set_trainable(state.learner.module, learns=False)
        self._turned = ""
        now = {name: int(state.skipped) for name, state in self.states.items()}
        skipped = {name: count - self._skipped.get(name, 0) for name, count in now.items() if count > self._skipped.get(name, 0)}
        self._skipped = now
        look = self.watch.look(self.step, skipped)
        self._well = self._well if look.alarms else self.step
        return look

    def _heed(self, look: Readings) -> None:
        """Says what alarms are new, and stops if that is the policy."""
        told, self._told = self._told, {alarm.name for alarm in look.alarms}
        for alarm in look.alarms:
            self._raise(alarm, new=alarm.name not in told)

    def _raise(self, alarm: Alarm, *, new: bool) -> None:
        if new:
            self.say(f"alarm ({alarm.name}) at step {self.step} of {self.phase}: {alarm.message}")
        self._require(self.settings.on_alarm != "stop", f"alarm ({alarm.name}): {alarm.message}", "")

    def _roll_back(self) -> bool:
        """Goes back with half of the rates, if that is the policy; returns whether it did.

        A checkpoint is trusted if a later look found nothing wrong: an alarm comes after what it is about, which the latest checkpoint may
        hold already.
        """
        if self.settings.on_alarm != "roll-back" or self.checkpoints is None:
            return False
        good = next(filter(whole, self.checkpoints.trusted(self._well, self.settings.checkpoint_every)), None)
        self._require(good is not None, "there is nothing to roll back to", "")
        self._require(self._roll_backs < ROLL_BACKS, f"rolled back {ROLL_BACKS} times in vain", "")
        scale, times = self._scale / 2, self._roll_backs + 1
        self._restore(good)
        self._scale, self._roll_backs, self._told = scale, times, set()
        self.say(f"rolled back to {good}; the rates are {scale:g} of what they were")
        return True

    def _rewind(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.set_aside(self.step)
        self.log.rewind(self.phase, self.step)

    def averages(self, name: str) -> dict[float, nn.Module]:
        """Returns copies of a learner's module with the weights of its further averages, by decay."""
        state = self.states[name]
        return {decay: state.ema.copy(i) for i, decay in enumerate(state.learner.extra_ema_decays, 1)}

    def _stopped(self) -> bool:
        asked = self.stop()
        together = self.parallel.size > 1 and self.step % STOP_EVERY == 0
        return self.parallel.any(asked) if together else asked and self.parallel.size == 1

    def _turn(self) -> None:
        name = self.algorithm.learner(self.step)
        state = self.states[name]
        if name != self._turned:
            for other, its in self.states.items():
                self.parallel.set_trainable(its.learner.module, learns=other == name)
            self._turned = name
        state.clear()
        for part in self.parts:
            if len(self.parts) > 1:
                self.parallel.sync_gradients(state.learner.module, now=part is self.parts[-1])
            with part.drawing():
                loss = self.algorithm.loss(self.step, part.rows)
            loss = loss if part == self.share else loss * (part.rows / self.share.rows)
            loss.backward()
            self._add(name, loss.detach(), part)
        state.step(
            state.learner.lr * self._scale * self.settings.factor(self.step), self.settings.max_grad_norm, self.settings.adaptive_clip
        )
        self.step += 1

    def _add(self, name: str, loss: Tensor, part: BatchSlice) -> None:
        share = part.rows / self.share.rows
        seen = torch.stack([torch.nan_to_num(loss, 0.0, 0.0, 0.0), torch.isfinite(loss) * share])
        self._sums[name] = self._sums[name] + seen if name in self._sums else seen

    def _sum(self, name: str, total: float, count: float) -> Tensor:
        device = self.states[name].skipped.device
        return torch.tensor([total, count], dtype=self.states[name].own[0].dtype, device=device)

    def _write(self, values: dict[str, Any], look: Readings | None) -> None:
        row: dict[str, Any] = {"phase": self.phase, "step": self.step, **values}
        if look is not None:
            row |= {f"watch/{name}": value for name, value in look.readings.items()}
            row |= {"alarms": [alarm.name for alarm in look.alarms]} if look.alarms else {}
        self.parallel.on_main_process(lambda: self.log.write(row))

    def _report(self, seconds: float, look: Readings | None) -> None:
        """Writes a row of the log: the one place, beside checkpoints, where the host waits for the device."""
        sums = {name: self.parallel.all_reduce_mean(x).tolist() for name, x in self._sums.items()}
        skipped = {name: int(state.skipped) for name, state in self.states.items() if int(state.skipped)}
        self._sums = {}
        dead = [name for name, (_, count) in sums.items() if not count]
        self._require(not dead, f"no loss of {' and '.join(dead)} was finite since the last row of the log")
        losses = {name: total / count for name, (total, count) in sums.items()}
        values = {f"loss/{k}": v for k, v in losses.items()} | {f"skipped/{name}": n for name, n in skipped.items()}
        self._write({**values, "seconds": seconds}, look)
        self.show(Progress(self.phase, self.step, self.settings.steps, losses, seconds))

    def _save(self, *, last: bool) -> None:
        weights = [w for state in self.states.values() for w in state.own]
        finite = torch.stack([torch.isfinite(w).all() for w in weights]).all()
        self._require(not self.parallel.any(not bool(finite)), "weights that are not finite")
        if self.checkpoints is None:
            return
        checkpoints, keep = self.checkpoints, self.parallel.rank == 0
        tensors = {}
        for name, state in self.states.items():
            for key, x in state.tensors():
                if keep:
                    tensors[f"{name}/{key}"] = x
        sums = {name: self.parallel.all_reduce_mean(x).tolist() for name, x in self._sums.items()}
        regular = self.step % self.settings.checkpoint_every == 0 or self.step == self.settings.steps
        if self.judge is not None and regular:  # so that an interruption does not change what is judged
            value = self.judge(self._averaged())
            if self._best is None or value < self._best[1]:
                self._best = self.step, value
        history = {"sums": sums, "scale": self._scale, "roll_backs": self._roll_backs, "best": self._best, "well": self._well}
        try:
            self.parallel.on_main_process(lambda: checkpoints.write(self.step, tensors, history, self._spared(checkpoints)))
        except ArtifactError as error:
            good = checkpoints.good()
            there = f"the last good one is {good}" if good else "there is none yet"
            if last:
                raise ArtifactError(f"{error}; {there}, and the run goes on from it when there is room") from error
            self._raise(Alarm("disk", f"the checkpoint was not written ({error}); {there}. Make room"), new=True)

    def _spared(self, checkpoints: Checkpoints) -> set[Path | None]:
        """The checkpoints that are kept however old they are: the best, and what a roll-back would go to."""
        best = checkpoints.file(self._best[0]) if self._best else None
        trusted = checkpoints.trusted(self._well, self.settings.checkpoint_every) if self.settings.on_alarm == "roll-back" else ()
        return {best, next(iter(trusted), None)}

    def _require(self, healthy: bool, what: str, cure: str = ". Lower the rates or clip") -> None:
        if not healthy:
            good = self.checkpoints.good() if self.checkpoints else None
            there = f"the last good checkpoint is {good}" if good else "no checkpoint was written yet"
            raise DivergedError(f"training diverged at step {self.step} of {self.phase}: {what}; {there}{cure}")


def _require_whole_groups(parts: list[BatchSlice], block_size: int) -> None:
    """Raises an error unless neighbours that are paired jointly stay together."""
    if any(x % block_size for part in parts for x in (part.begin, part.end) if x != part.total):
        rows = max(part.rows for part in parts)
        raise SettingError(
            f"the coupling pairs {block_size} neighbours jointly, which shares of {rows} of {parts[0].total} samples would part; "
            f"choose micro-batches and processes whose shares are multiples of {block_size}"
        )
