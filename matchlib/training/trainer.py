"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matchlib.errors import DivergedError, SettingError
from matchlib.training.algorithm import Algorithm, Learner
from matchlib.training.checkpoint import Checkpoints, State
from matchlib.training.ema import EMA
from matchlib.training.log import Log

__all__ = ["Interrupted", "Progress", "Trainer", "TrainerSettings"]


class Interrupted(Exception):
    """The run was asked to stop; a checkpoint is written."""


@dataclass(frozen=True)
class TrainerSettings:
    """How long and how carefully to train.

    Args:
        steps: turns in all, >= 1.
        warmup: steps over which the rates rise linearly from 0, >= 0.
        decay: share of the steps, at the end, over which the rates fall linearly to 0, in [0, 1].
        clip: largest norm of a gradient, > 0; inf for none.
        log_every, checkpoint_every: steps between rows of the log and between checkpoints, >= 1.
    """

    steps: int
    warmup: int = 100
    decay: float = 0.0
    clip: float = math.inf
    log_every: int = 100
    checkpoint_every: int = 1000

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.warmup < 0 or not 0 <= self.decay <= 1 or not self.clip > 0:
            raise SettingError(
                f"warmup >= 0, 0 <= decay <= 1 and clip > 0 are required, got warmup={self.warmup}, decay={self.decay}, clip={self.clip}"
            )

    def factor(self, step: int) -> float:
        """Returns what the rates are multiplied by at ``step``, in (0, 1]."""
        rise = (step + 1) / self.warmup if step < self.warmup else 1.0
        fall = (self.steps - step) / max(self.decay * self.steps, 1.0)
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
    """

    def __init__(
        self,
        algorithm: Algorithm,
        settings: TrainerSettings,
        *,
        phase: str = "train",
        checkpoints: Checkpoints | None = None,
        log: Log | None = None,
        show: Callable[[Progress], None] = lambda progress: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.algorithm, self.settings, self.phase = algorithm, settings, phase
        self.checkpoints, self.log, self.show, self.stop = checkpoints, log or Log(None), show, stop
        self.states = {name: _state(learner) for name, learner in algorithm.learners.items()}
        self.step = 0
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def fit(self) -> dict[str, nn.Module]:
        """Trains to the end, from the latest checkpoint if there is one.

        Returns:
            Copies of the learners' modules with averaged weights, by name.

        Raises:
            Interrupted: ``stop`` said so; a checkpoint is written.
            DivergedError: a loss or weight is not finite; the message names the last good checkpoint.
        """
        if self.checkpoints is not None:
            self.step = self.checkpoints.restore(self.states)
            self.log.rewind(self.phase, self.step)
        start = time.perf_counter()
        while self.step < self.settings.steps:
            self._turn()
            last = self.step == self.settings.steps
            if last or self.step % self.settings.log_every == 0:
                self._report(time.perf_counter() - start)
            stopped = self.stop() and not last
            if last or stopped or self.step % self.settings.checkpoint_every == 0:
                self._save()
            if stopped:
                raise Interrupted(f"interrupted after step {self.step} of {self.settings.steps} ({self.phase})")
        return {name: state.ema.copy() for name, state in self.states.items()}

    def _turn(self) -> None:
        turn = self.algorithm.turn(self.step)
        state = self.states[turn.learner]
        weights = [w for group in state.optimiser.param_groups for w in group["params"]]
        state.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(turn.loss, inputs=weights)
        if math.isfinite(self.settings.clip):
            nn.utils.clip_grad_norm_(weights, self.settings.clip)
        rate = state.learner.rate * self.settings.factor(self.step)
        for group in state.optimiser.param_groups:
            group["lr"] = rate
        state.optimiser.step()
        state.ema.update()
        total, count = self._sums.get(turn.learner, (0.0, 0))
        self._sums[turn.learner] = (total + turn.loss.detach(), count + 1)
        self.step += 1

    def _report(self, seconds: float) -> None:
        losses = {name: float(total) / count for name, (total, count) in self._sums.items()}
        self._sums = {}
        self._require(all(math.isfinite(loss) for loss in losses.values()), f"losses {losses}")
        row = {"phase": self.phase, "step": self.step, **{f"loss/{k}": v for k, v in losses.items()}, "seconds": seconds}
        self.log.write(row)
        self.show(Progress(self.phase, self.step, self.settings.steps, losses, seconds))

    def _save(self) -> None:
        weights = [w for state in self.states.values() for w in state.learner.module.parameters()]
        finite = torch.stack([torch.isfinite(w).all() for w in weights]).all()
        self._require(bool(finite), "weights that are not finite")
        if self.checkpoints is not None:
            self.checkpoints.write(self.step, self.states)

    def _require(self, healthy: bool, what: str) -> None:
        if not healthy:
            files = self.checkpoints.files() if self.checkpoints else []
            good = f"the last good checkpoint is {files[-1]}" if files else "no checkpoint was written yet"
            raise DivergedError(f"training diverged at step {self.step} of {self.phase}: {what}; {good}. Lower the rates or clip")


def _state(learner: Learner) -> State:
    weights = [w for w in learner.module.parameters() if w.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=learner.rate, betas=learner.betas, fused=True)
    return State(learner, optimiser, EMA(learner.module, learner.ema))
