"""Is a step as fast, and as small, as in another checkout of matchlib?

Both checkouts build the same cases. In every round each has a fresh process, and the two take short blocks of steps in turn, so that what
else the machine does meets both alike. Reported are the median over rounds of (time of the new) / (time of the old), least and largest
round, and the ratios of peak memory: of a process that takes some steps, and of the tensors that stay and that steps make. One thread.

    python -m benchmarks.speed.before_after --old CHECKOUT [--new CHECKOUT] [--rounds 7] [--only "flow, MLP"] [--out FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = 6  # blocks of each checkout in a round
WARM_UP = 3  # pairs of a critic and a student step before anything is timed


@dataclass(frozen=True)
class Case:
    """What is trained: the family, its network, the loss, batch, side of the images, and pairs of steps in a block."""

    family: str
    network: dict[str, Any]
    loss: str
    batch: int
    side: int
    steps: int


MLP, UNET = {"name": "mlp", "width": 192, "depth": 3}, {"name": "unet", "channels": 16}
CASES = {
    "flow, MLP, realuid": Case("flow", MLP, "realuid", 256, 8, 20),
    "flow, MLP, uid": Case("flow", MLP, "uid", 256, 8, 20),
    "flow, small MLP, realuid": Case("flow", {"name": "mlp", "width": 32, "depth": 1}, "realuid", 16, 8, 60),
    "flow, U-Net, realuid": Case("flow", UNET, "realuid", 32, 16, 2),
    "flow, U-Net, uid": Case("flow", UNET, "uid", 32, 16, 2),
    "bridge of pairs, MLP, realuid": Case("bridge", MLP, "realuid", 256, 8, 20),
}


# -- in the process of one checkout ----------------------------------------------------------------------------------------


def data_of(case: Case, dataset: Any) -> Any:
    """Returns random images with ten classes, and with a source where the family joins pairs."""
    import numpy as np

    draws = np.random.default_rng(0)
    images = draws.normal(size=(1797, 1, case.side, case.side)).astype(np.float32)
    source = images + 0.5 * draws.normal(size=images.shape).astype(np.float32) if case.family == "bridge" else None
    return dataset.from_arrays("images", images, source=source, labels=np.arange(1797) % 10)


def built(case: Case) -> Any:
    """Returns what takes a step, through the checkout's own classes."""
    import importlib.util

    return after(case) if importlib.util.find_spec("matchlib.fields") else before(case)


def before(case: Case) -> Any:
    """The trainer of a checkout in which a step was called a turn."""
    import torch
    from matchlib.cards import build_field
    from matchlib.distillation.field import Signature
    from matchlib.distillation.teacher import Teacher
    from matchlib.registries import families, losses, students
    from matchlib.streams import Streams
    from matchlib.training.algorithm import Learner
    from matchlib.training.distilling import Distilling
    from matchlib.training.engine import prepare

    from matchlib.data import Dataset
    from matchlib.distillation.distillation import Distillation
    from matchlib.training.trainer import Trainer, TrainerSettings

    torch.manual_seed(0)
    data, family = data_of(case, Dataset), families[case.family]()
    model, recipe = family.model(paired=data.paired), family.recipe(paired=data.paired)
    moments = data.moments(model.coupling)
    field = build_field(case.network, Signature(data.shape, data.classes, model.sees_source), model, moments)
    teacher = Teacher(field, model, moments)
    student, critic = students["onestep"](teacher, None, start=recipe.start), copy.deepcopy(field).train().requires_grad_(True)
    for module in (teacher, student, critic):
        prepare(module, frozen=module is teacher)
    loss = losses["realuid"](alpha=2.0, beta=2.0, gamma=0.5) if case.loss == "realuid" else losses[case.loss]()
    distillation = Distillation(teacher, student, critic, loss, None)
    learners = Learner(student, recipe.student_rate, (0.0, 0.99), 0.999), Learner(critic, recipe.critic_rate, (0.0, 0.99), 0.0)
    task = Distilling(distillation, *learners, data, Streams(0, torch.device("cpu")), batch=case.batch, critic_turns=1)
    return Trainer(task, TrainerSettings(10**9, surge=3.0))._turn


def after(case: Case) -> Any:
    """The trainer of a checkout with ``Trainer.step``."""
    import torch

    from matchlib.data.dataset import Dataset
    from matchlib.distillation.distillation import Distillation
    from matchlib.fields.preconditioned import NetworkSpec
    from matchlib.fields.teacher import Teacher
    from matchlib.plugins.tasks import DistillationTask
    from matchlib.registry import families, losses, students
    from matchlib.runs.artifact import build_field
    from matchlib.training.precision import prepare
    from matchlib.training.random import Streams
    from matchlib.training.settings import TrainerSettings
    from matchlib.training.task import Learner
    from matchlib.training.trainer import Trainer

    torch.manual_seed(0)
    data, family = data_of(case, Dataset), families[case.family]()
    model, defaults = family.model(paired=data.paired), family.defaults(paired=data.paired)
    moments = data.moments(model.coupling)
    field = build_field(case.network, NetworkSpec(data.shape, data.classes, model.sees_source), model, moments)
    if hasattr(defaults, "resolve"):  # else a checkout in which they were numbers
        defaults = defaults.resolve(model, data.train.data, field)
    teacher = Teacher(field, model, moments)
    student, critic = students["onestep"](teacher, None, t_start=defaults.t_start), copy.deepcopy(field).train().requires_grad_(True)
    for module in (teacher, student, critic):
        prepare(module, frozen=module is teacher)
    loss = losses["realuid"](alpha=2.0, beta=2.0, gamma=0.5) if case.loss == "realuid" else losses[case.loss]()
    distillation = Distillation(teacher, student, critic, loss, None)
    learners = Learner(student, defaults.student_lr, (0.0, 0.99), 0.999), Learner(critic, defaults.critic_lr, (0.0, 0.99), 0.0)
    task = DistillationTask(distillation, *learners, data, Streams(0, torch.device("cpu")), batch_size=case.batch, critic_steps=1)
    return Trainer(task, TrainerSettings(steps=10**9, adaptive_clip=3.0)).step


def work(root: Path, case: Case) -> None:
    """Takes a block of steps for every line of input and prints the seconds of a critic and of a student step."""
    import torch

    torch.set_num_threads(1)
    step = built(case)
    for _ in range(2 * WARM_UP):
        step()
    print(json.dumps({"code": str(root)}), flush=True)
    for _ in sys.stdin:
        seconds = [0.0, 0.0]
        for i in range(2 * case.steps):
            begin = time.perf_counter()
            step()
            seconds[i % 2] += time.perf_counter() - begin
        print(json.dumps([x / case.steps for x in seconds]), flush=True)


def memory(case: Case) -> None:
    """Prints the peak of the process after some steps, and that of tensors: what stays and what steps add, in bytes."""
    import torch

    torch.set_num_threads(1)
    step = built(case)
    for _ in range(6):
        step()
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    from matchlib.training.memory import Live

    with Live() as live:
        step = built(case)
    kept = live.now
    with Live() as live:
        for _ in range(4):
            step()
    print(json.dumps({"process": most, "tensors": kept + live.peak}))


# -- the comparison --------------------------------------------------------------------------------------------------------


def command(root: Path, name: str, what: str) -> tuple[list[str], dict[str, str]]:
    """Returns the command line of a process of a checkout, and its environment."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    return [sys.executable, __file__, f"--{what}", name, "--root", str(root)], environment


class Worker:
    """A process of a checkout that takes blocks of steps when it is asked to."""

    def __init__(self, root: Path, name: str) -> None:
        argv, environment = command(root, name, "worker")
        self.process = subprocess.Popen(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def block(self) -> list[float]:
        """Returns the seconds of a critic and of a student step."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        result: list[float] = self.answer()
        return result

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def one_round(roots: dict[str, Path], name: str, i: int) -> dict[str, list[float]]:
    """Returns, for each checkout, the median seconds of a critic step, of a student step and of both."""
    order = list(roots)[:: 1 if i % 2 else -1]
    workers = {side: Worker(roots[side], name) for side in order}
    blocks: dict[str, list[list[float]]] = {side: [] for side in roots}
    for j in range(BLOCKS):
        for side in order[:: 1 if j % 2 else -1]:
            blocks[side].append(workers[side].block())
    for worker in workers.values():
        worker.end()
    return {side: [statistics.median(x) for x in zip(*((c, s, c + s) for c, s in rows), strict=True)] for side, rows in blocks.items()}


def spread(values: Iterable[float]) -> dict[str, float]:
    """Returns the median with the least and the largest value."""
    x = sorted(values)
    return {"median": round(statistics.median(x), 4), "least": round(x[0], 4), "largest": round(x[-1], 4)}


def compared(roots: dict[str, Path], name: str, rounds: int) -> dict[str, Any]:
    """Returns a row of the table."""
    results = [one_round(roots, name, i) for i in range(rounds)]
    row: dict[str, Any] = {"case": name, "rounds": rounds}
    for k, what in enumerate(("critic step", "student step", "both")):
        row[what] = spread(r["new"][k] / r["old"][k] for r in results)
        row[what] |= {f"ms, {side}": round(1e3 * statistics.median(r[side][k] for r in results), 3) for side in roots}
    peaks = {}
    for side, root in roots.items():
        argv, environment = command(root, name, "memory")
        peaks[side] = json.loads(subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout)
    for what in ("process", "tensors"):
        ratio = round(peaks["new"][what] / peaks["old"][what], 4)
        row[f"peak memory, {what}"] = {"ratio": ratio} | {f"MiB, {side}": round(peaks[side][what] / 2**20, 2) for side in roots}
    return row


def commit(root: Path) -> str:
    """Returns the commit of a checkout, with a mark where files of it were changed."""
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "matchlib"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{head}, changed" if changed else head


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", type=Path)
    parser.add_argument("--new", type=Path, default=ROOT)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", choices=list(CASES), help=argparse.SUPPRESS)
    parser.add_argument("--memory", choices=list(CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.root, CASES[options.worker])
    elif options.memory:
        memory(CASES[options.memory])
    elif options.old is None:
        parser.error("--old CHECKOUT is needed")
    else:
        report(options)


def report(options: argparse.Namespace) -> None:
    """Compares the checkouts case by case and prints JSON."""
    import torch

    roots = {"old": options.old.resolve(), "new": options.new.resolve()}
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/speed/before_after.py", *sys.argv[1:]]),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count(), "threads": 1, "device": "cpu"},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "commits": {side: commit(root) for side, root in roots.items()},
        "bounds": {"ratio": 1.02},
        "rows": [],
    }
    for name in options.only:
        record["rows"].append(compared(roots, name, options.rounds))
        print(json.dumps(record["rows"][-1]), file=sys.stderr, flush=True)
        if options.out is not None:  # as far as it goes
            options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
