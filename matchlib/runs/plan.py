"""What a run will need of memory, found by taking a turn of each kind with few samples and counting."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch

from matchlib.distillation.distillation import Distillation
from matchlib.runs.build import distillation_of
from matchlib.runs.run import Run
from matchlib.settings import RunSettings
from matchlib.streams import Streams
from matchlib.training.algorithm import Learner
from matchlib.training.checkpoint import State
from matchlib.training.distilling import Distilling
from matchlib.training.engine import prepare
from matchlib.training.memory import Live, bytes_of
from matchlib.training.parallel import Alone

__all__ = ["Plan", "plan"]

FEW, MORE = 2, 6  # samples of the trials that a straight line is drawn through


@dataclass(frozen=True)
class Plan:
    """Expected memory, in bytes.

    Args:
        parts: what is there between turns, by name.
        turn: what a turn adds that does not depend on the batch: gradients, mostly.
        sample: what it adds for each sample that is worked on at once.
        batch: samples that the settings work on at once.
    """

    parts: dict[str, int]
    turn: int
    sample: int
    batch: int

    def peak(self, batch: int | None = None) -> int:
        """Returns the most that is there at once."""
        return sum(self.parts.values()) + self.turn + self.sample * (self.batch if batch is None else batch)

    def largest(self, memory: int) -> int:
        """Returns how many samples can be worked on at once in so much memory; 0 if not even one."""
        return max((memory - self.peak(0)) // max(self.sample, 1), 0)


def plan(settings: RunSettings) -> Plan:
    """Returns the plan of the student's training; the data are read, and nothing is trained or written.

    Shares of several processes are not counted: it is the memory of one that works on ``micro`` samples, or else the batch, and holds all
    weights.

    Raises:
        MatchlibError: the settings cannot work.
    """
    run = Run(settings, Path("unused"))
    t = settings.trainer
    teacher = run.untrained
    made = distillation_of(settings, run.card, teacher, run.loss_of_run, paired=run.data.paired).distillation
    e = t.engine
    frozen = copy.deepcopy(teacher)
    for module in (frozen, made.student, made.critic):
        prepare(module, precision=e.precision, channels_last=e.channels_last, checkpointing=e.checkpointing)
    of = Distillation(frozen, made.student, made.critic, made.loss, made.model.times, split=e.split, together=e.together)
    learners = {"student": Learner(made.student, emas=t.emas, ema=t.ema), "critic": Learner(made.critic, ema=0.0)}
    states = {name: State(learner, Alone()) for name, learner in learners.items()}
    data = [x for x in (run.data.train.data, run.data.train.source, run.data.train.label) if x is not None]
    parts = {"data": bytes_of(data), "teacher": bytes_of(frozen.state_dict().values())}
    for name, state in states.items():
        weights = bytes_of(state.named.values())
        averages = bytes_of(x for average in state.ema.averages for x in average)
        parts |= {name: weights, f"{name}'s optimiser": 2 * bytes_of(state.weights)}
        parts |= {f"{name}'s averages": averages} if averages else {}
    few, more = (_turns(of, learners, states, run, size) for size in (FEW, MORE))
    sample = max((b - a) / (MORE - FEW) for a, b in zip(few, more, strict=True))
    turn = max(a - sample * FEW for a in few)
    return Plan(parts, max(int(turn), 0), int(sample), e.micro or t.batch)


def _turns(of: Distillation, learners: dict[str, Learner], states: dict[str, State], run: Run, size: int) -> list[int]:
    """The most that a turn of each learner adds, in bytes, with so many samples."""
    algorithm = Distilling(of, learners["student"], learners["critic"], run.data, Streams(0, torch.device("cpu")), batch=size)
    found = []
    for step in (0, 1):
        for name, state in states.items():
            Alone().give_turn(state.learner.module, learns=name == algorithm.learner(step))
        state = states[algorithm.learner(step)]
        with Live() as live:
            algorithm.loss(step, size).backward()
        found.append(live.peak)
        state.clear()
        for other in states.values():
            other.learner.module.requires_grad_(True)
    return found
