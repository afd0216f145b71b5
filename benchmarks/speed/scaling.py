"""How does a cycle (five critic steps and one student step) grow with the batch, with the weights and with processes? CPU, MLP on digits.

    python -m benchmarks.speed.scaling

Processes share one batch of 512 by DDP, one thread each, as `torchrun` starts them; seconds are the median of blocks of ten cycles.
`of one` is the time over that of one process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import torch

import matchlib
from benchmarks.record import save
from benchmarks.speed.step import CRITIC_STEPS, Case, Setting, seconds, through_matchlib
from matchlib.distillation.distillation import Distillation
from matchlib.fields.teacher import Teacher
from matchlib.plugins.losses import RealUID
from matchlib.plugins.tasks import DistillationTask
from matchlib.training.distributed import hard_exit, init_distributed, strategy
from matchlib.training.random import Streams
from matchlib.training.settings import TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer

BATCHES, WIDTHS, PROCESSES = (8, 32, 128, 512, 2048), (64, 128, 256, 512, 1024), (1, 2)


def time_of(width: int, batch: int) -> dict[str, Any]:
    """Returns the milliseconds of a cycle of five critic steps and one student step."""
    of = Setting(Case({"name": "mlp", "width": width}, 8, {}))
    cycle = through_matchlib(of, batch)
    seconds(cycle, 2)
    return {"weights": sum(w.numel() for w in of.field.parameters()), "ms": 1e3 * statistics.median(seconds(cycle, 2) for _ in range(7))}


def process(how: str) -> None:
    """One of the processes: prints the milliseconds of a cycle."""
    torch.set_num_threads(1)
    init_distributed(torch.device("cpu"))
    among = strategy(how)
    of = Setting(Case({"name": "mlp", "width": 228}, 8, {}))
    teacher = Teacher(of.field, of.model)
    student, critic = matchlib.students["onestep"](teacher, None, t_start=1.0), matchlib.students["onestep"](teacher, None).field
    placed = [among.wrap(module.requires_grad_(True)) for module in (student, critic)]
    distillation = Distillation(teacher, placed[0], placed[1], RealUID(2.0, 2.0, 0.5))
    learners = Learner(student), Learner(critic, ema=0.0)
    streams = Streams(0, torch.device("cpu"))
    trainer = Trainer(
        DistillationTask(distillation, *learners, of.data, streams, batch_size=512, critic_steps=CRITIC_STEPS),
        TrainerSettings(steps=10**9),
        strategy=among,
    )

    def cycle() -> None:
        for _ in range(CRITIC_STEPS + 1):
            trainer.step()

    seconds(cycle, 2)
    ms = 1e3 * statistics.median(seconds(cycle, 2) for _ in range(7))
    if among.rank == 0:
        print(json.dumps({"ms": ms}), flush=True)
    hard_exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--process", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process:
        process(given.process)
        return
    rows: list[dict[str, Any]] = [{"what": "batch", "batch": batch, **time_of(228, batch)} for batch in BATCHES]
    rows += [{"what": "weights", "batch": 128, **time_of(width, 128)} for width in WIDTHS]
    for how in ("ddp", "fsdp"):
        alone = 0.0
        for count in PROCESSES:
            torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--module", "benchmarks.speed.scaling"]
            done = subprocess.run([sys.executable, *torchrun, "--process", how], check=True, capture_output=True, text=True)
            ms = json.loads(done.stdout.strip().splitlines()[-1])["ms"]
            alone = alone or ms
            rows.append({"what": "processes", "batch": 512, "parallel": how, "processes": count, "ms": ms, "of one": ms / alone})
    for row in rows:
        print(row)
    save("scaling", rows)


if __name__ == "__main__":
    main()
