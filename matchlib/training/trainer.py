"""The training loop."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.errors import ArtifactError, DivergedError, Interrupted, SettingError
from matchlib.training.alarms import Raised
from matchlib.training.checkpoint import Checkpoints
from matchlib.training.distributed import SingleProcess
from matchlib.training.optimizer import TrainState
from matchlib.training.random import BatchSlice, may_draw, seeded
from matchlib.training.settings import TrainerSettings
from matchlib.training.task import Task

__all__ = ["Callback", "Trainer"]

logger = logging.getLogger("matchlib")
HOPELESS = 10  # steps of one learner without a finite loss that end a training
STOP_EVERY = 10  # steps after which several processes ask each other whether one was asked to stop


class Callback:
    """What a training calls at its events, in all processes; a subclass overrides the methods that it needs.

    Callbacks are called in their order. They read the trainer's public attributes and may change ``lr_scale``.

    Attributes:
        name: under which checkpoints hold the state; that of the class. Two of one class need two names.
    """

    @property
    def name(self) -> str:
        return type(self).__name__

    def on_fit_start(self, trainer: Trainer) -> None:
        """Called before the first step, after a checkpoint was restored if there is one."""

    def on_step_end(self, trainer: Trainer) -> Mapping[str, Any]:
        """Called after every step; returns values for a row of the log, and none for no row."""
        return {}

    def on_log(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        """Called with every row of the log."""

    def on_alarm(self, trainer: Trainer, alarm: Raised) -> None:
        """Called for every alarm that is new, after its row of the log."""

    def on_roll_back(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        """Called when the training went back to an earlier step, with a row of the log that says from where, and why."""

    def on_checkpoint(self, trainer: Trainer) -> None:
        """Called before a checkpoint is written."""

    def on_checkpoint_written(self, trainer: Trainer) -> None:
        """Called after a checkpoint was written."""

    def on_restore(self, trainer: Trainer) -> None:
        """Called after the training went on from a checkpoint, or back to one."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Called after the last step and its checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs to know, as JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""

    def tensors(self) -> Mapping[str, Tensor]:
        """Returns tensors that a resumed run needs."""
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what ``tensors`` returned, after ``load_state_dict``."""


class Trainer:
    """Trains the learners of a task, one optimiser step after the other.

    Args:
        task: what a step is.
        settings: how long and how carefully.
        phase: name of this training in log and checkpoints.
        checkpoints: where to write and resume from; None for neither.
        callbacks: what happens besides the steps.
        strategy: the processes that train; it has wrapped the task's modules.
        should_stop: asked after every step; True ends the run with a checkpoint.

    Attributes:
        states: the learners' weights, averages and optimisers, by name.
        steps_done: optimiser steps so far.
        lr_scale: what all learning rates are multiplied by.

    Raises:
        SettingError: the batch cannot be cut into slices as required.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainerSettings,
        *,
        phase: str = "train",
        checkpoints: Checkpoints | None = None,
        callbacks: Sequence[Callback] = (),
        strategy: SingleProcess | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.task, self.settings, self.phase = task, settings, phase
        self.checkpoints, self.callbacks, self.should_stop = checkpoints, list(callbacks), should_stop
        self.strategy = strategy or SingleProcess()
        self.slice = BatchSlice.of(task.batch_size, self.strategy.rank, self.strategy.size)
        self.micro_batches = list(self.slice.parts(settings.engine.micro_batch_size))
        require_whole_blocks(self.micro_batches, task.block_size)
        self.states = {name: TrainState(learner, self.strategy) for name, learner in task.learners.items()}
        self.steps_done, self.lr_scale = 0, 1.0
        self._trainable: str | None = None  # the learner whose weights collect gradients; empty for none
        self._losses: dict[str, Tensor] = {}  # sum and weight of each learner's finite losses since the last row of the log
        self._since_finite = Counter[str]()  # steps of each learner since a row of the log with a finite loss of it
        self._may_draw = any(may_draw(x) for x in (*task.frozen, *(learner.module for learner in task.learners.values())))

    # -- the loop --------------------------------------------------------------------------------------------------------

    def fit(self) -> dict[str, nn.Module]:
        """Trains to the end, from a checkpoint if there is one, and returns ``averaged()``.

        Raises:
            Interrupted: ``should_stop`` returned True; a checkpoint is written.
            DivergedError: nothing is finite any more, or a callback ended the training; the message names the last good checkpoint.
        """
        if self.checkpoints is not None:
            self.restore()
        try:
            self._fit()
        finally:  # what may learn is as it was
            for state in self.states.values():
                self.strategy.set_trainable(state.learner.module, learns=True)
            self._trainable = None
        return self.averaged()

    def _fit(self) -> None:
        start = time.perf_counter()
        self._call("on_fit_start")
        while self.steps_done < self.settings.steps:
            self.step()
            done = self.steps_done
            self._log(time.perf_counter() - start)
            if self.steps_done != done:  # a callback went back to a checkpoint
                continue
            last = done == self.settings.steps
            stop = self._asked_to_stop() and not last
            if last or stop:
                self.save()
            elif self.at_regular_checkpoint:
                self.try_to_save()
            if stop:
                raise Interrupted(f"interrupted after step {done} of {self.settings.steps} ({self.phase})")
        self._call("on_fit_end")

    def step(self) -> None:
        """Takes one optimiser step of the learner whose step it is; the host does not wait for the device."""
        name = self.task.learner(self.steps_done)
        state = self.states[name]
        self._set_trainable(name)
        state.clear()
        for part in self.micro_batches:
            if len(self.micro_batches) > 1:
                self.strategy.sync_gradients(state.learner.module, now=part is self.micro_batches[-1])
            with part.drawing(), self._network_draws(part):
                loss = self.task.loss(name, part.rows, self.steps_done)
            loss = loss if part == self.slice else loss * (part.rows / self.slice.rows)
            loss.backward()
            self._add_loss(name, loss.detach(), part)
        self._since_finite[name] += 1
        lr = state.learner.lr * self.lr_scale * self.settings.lr_factor(self.steps_done)
        state.step(lr, self.settings.max_grad_norm, self.settings.adaptive_clip)
        self.steps_done += 1

    def _set_trainable(self, name: str) -> None:
        if name != self._trainable:
            for other, state in self.states.items():
                self.strategy.set_trainable(state.learner.module, learns=other == name)
            self._trainable = name

    def freeze(self) -> None:
        """Lets no learner collect gradients until the next step."""
        self._set_trainable("")

    def _network_draws(self, part: BatchSlice) -> AbstractContextManager[None]:
        """Makes what networks draw themselves, as dropout does, a function of seed, step and samples."""
        return seeded(self.task.streams(f"network-{part.begin}", self.steps_done)) if self._may_draw else nullcontext()

    def _asked_to_stop(self) -> bool:
        stop = self.should_stop()
        if self.strategy.size == 1:
            return stop
        return self.steps_done % STOP_EVERY == 0 and self.strategy.any(stop)

    # -- results ---------------------------------------------------------------------------------------------------------

    def averaged(self) -> dict[str, nn.Module]:
        """Returns copies of the learners' modules with averaged weights, by name."""
        return {name: state.ema.copy() for name, state in self.states.items()}

    def averages(self, name: str) -> dict[float, nn.Module]:
        """Returns copies of a learner's module with the weights of its further averages, by decay."""
        state = self.states[name]
        return {decay: state.ema.copy(i) for i, decay in enumerate(state.learner.extra_ema_decays, 1)}

    def skipped(self) -> dict[str, int]:
        """Returns how many steps each learner skipped because a gradient was not finite; the host waits for the device."""
        return {name: int(state.skipped) for name, state in self.states.items()}

    # -- log and notices -------------------------------------------------------------------------------------------------

    def _log(self, seconds: float) -> None:
        """Collects the values of this step and hands them to the callbacks as a row, if there are any."""
        row: dict[str, Any] = {}
        values = [dict(callback.on_step_end(self)) for callback in self.callbacks]
        if self.steps_done == self.settings.steps or self.steps_done % self.settings.log_every == 0:
            row |= {f"loss/{name}": loss for name, loss in self._mean_losses().items()}
            row |= {f"grad_norm/{name}": norm for name, state in self.states.items() if (norm := state.gradient_norm())}
            row |= {f"skipped/{name}": count for name, count in self.skipped().items() if count}
            row["seconds"] = seconds
        for more in values:
            row |= more
        if row:
            self._call("on_log", {"phase": self.phase, "step": self.steps_done, **row})

    def _add_loss(self, name: str, loss: Tensor, part: BatchSlice) -> None:
        weight = part.rows / self.slice.rows
        values = torch.stack([torch.nan_to_num(loss, 0.0, 0.0, 0.0), torch.isfinite(loss) * weight])
        self._losses[name] = self._losses[name] + values if name in self._losses else values

    def _loss_sums(self) -> dict[str, list[float]]:
        return {name: self.strategy.all_reduce_mean(x).tolist() for name, x in self._losses.items()}

    def _mean_losses(self) -> dict[str, float]:
        """The mean finite losses since the last row: the one place, besides checkpoints, where the host waits for the device."""
        sums = self._loss_sums()
        without = [name for name, (_, weight) in sums.items() if not weight]
        if diverged := [name for name in without if self._since_finite[name] >= HOPELESS or self._never_stepped(name)]:
            raise self.diverged(f"no loss of {' and '.join(diverged)} was finite in the last {self._since_finite[diverged[0]]} steps of it")
        for name in sums.keys() - set(without):
            del self._losses[name]
            self._since_finite[name] = 0
        return {name: total / weight for name, (total, weight) in sums.items() if weight}

    def _never_stepped(self, name: str) -> bool:
        """Whether the training is over, and a learner skipped all of its steps."""
        return self.steps_done == self.settings.steps and not any(map(bool, self.states[name].moments["step"]))

    def note(self, message: str) -> None:
        """Logs a message, in the first process."""
        if self.strategy.rank == 0:
            logger.info(message)

    def warn(self, message: str) -> None:
        """Logs a warning, in the first process."""
        if self.strategy.rank == 0:
            logger.warning(message)

    def alarm(self, *alarms: Raised) -> None:
        """Warns of alarms, and hands them to the callbacks."""
        for alarm in alarms:
            self.warn(f"alarm ({alarm.name}) at step {self.steps_done} of {self.phase}: {alarm.message}")
        for alarm in alarms:
            self._call("on_alarm", alarm)

    def diverged(self, what: str, cure: str = ". Lower the learning rates or clip") -> DivergedError:
        """Returns the error that ends the training, which names the last good checkpoint."""
        return DivergedError(f"training diverged at step {self.steps_done} of {self.phase}: {what}; {self._last_good()}{cure}")

    def rolled_back(self, row: Mapping[str, Any]) -> None:
        """Hands a row on a step back, from ``restore``, to the callbacks."""
        self._call("on_roll_back", {"phase": self.phase, "step": self.steps_done, **row})

    def _last_good(self) -> str:
        good = self.checkpoints.last_good() if self.checkpoints else None
        return f"the last good checkpoint is {good}" if good else "no checkpoint was written yet"

    def _call(self, event: str, *values: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *values)

    # -- checkpoints -----------------------------------------------------------------------------------------------------

    @property
    def at_regular_checkpoint(self) -> bool:
        """Whether a checkpoint is due after this step, be the run interrupted or not."""
        return self.steps_done % self.settings.checkpoint_every == 0 or self.steps_done == self.settings.steps

    def save(self) -> None:
        """Writes a checkpoint, if there is a place for it.

        Raises:
            DivergedError: a weight is not finite.
            ArtifactError: it cannot be written; the message names the last good one.
        """
        finite = torch.stack([torch.isfinite(w).all() for state in self.states.values() for w in state.local]).all()
        if self.strategy.any(not bool(finite)):
            raise self.diverged("weights that are not finite")
        if self.checkpoints is None:
            return
        checkpoints, tensors = self.checkpoints, {}
        for name, state in self.states.items():
            for key, x in state.tensors():
                if self.strategy.rank == 0:
                    tensors[f"{name}/{key}"] = x
        self._call("on_checkpoint")
        for callback in self.callbacks:
            tensors |= {f"callbacks/{callback.name}/{key}": x.contiguous() for key, x in callback.tensors().items()}
        states = {callback.name: callback.state_dict() for callback in self.callbacks}
        history = {"losses": self._loss_sums(), "since_finite": self._since_finite, "lr_scale": self.lr_scale, "callbacks": states}
        try:
            self.strategy.on_main_process(lambda: checkpoints.write(self.steps_done, tensors, history))
        except ArtifactError as error:
            raise ArtifactError(f"{error}; {self._last_good()}, from which the run goes on when there is room") from error
        self._call("on_checkpoint_written")

    def try_to_save(self) -> None:
        """Writes a checkpoint; where it cannot be written, this is an alarm."""
        try:
            self.save()
        except ArtifactError as error:
            self.alarm(Raised("disk", f"the checkpoint was not written ({error})"))

    def restore(self, path: Path | None = None) -> None:
        """Goes on from a checkpoint, or back to one; without any, the training begins.

        Args:
            path: of the checkpoint; None for the one to resume from.
        """
        assert self.checkpoints is not None, "a trainer without checkpoints"
        checkpoints = self.checkpoints
        self.steps_done, history, others = checkpoints.restore(self.states, path)
        self._losses = {name: self.states[name].typical_norm.new_tensor(sums) for name, sums in history.get("losses", {}).items()}
        self._since_finite = Counter(history.get("since_finite", {}))
        self.lr_scale = history.get("lr_scale", 1.0)
        for callback in self.callbacks:
            if callback.name in history.get("callbacks", {}):
                callback.load_state_dict(history["callbacks"][callback.name])
                prefix = f"callbacks/{callback.name}/"
                callback.load_tensors({key.removeprefix(prefix): x for key, x in others.items() if key.startswith(prefix)})
        self.strategy.on_main_process(lambda: checkpoints.clean(self.steps_done))
        self._call("on_restore")


def require_whole_blocks(parts: Sequence[BatchSlice], block_size: int) -> None:
    """Raises an error unless every block of neighbours is paired within one slice."""
    if any(x % block_size for part in parts for x in (part.begin, part.end) if x != part.total):
        rows = max(part.rows for part in parts)
        raise SettingError(
            f"the coupling pairs {block_size} neighbours jointly, which slices of {rows} of {parts[0].total} samples would part; "
            f"choose micro-batches and processes whose slices are multiples of {block_size}"
        )
