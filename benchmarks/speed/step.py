"""How long does a step take? A cycle of five critic steps and a student step, three averages, the same mathematics in three loops.

`plain` is a loop as the released code has it, rewritten from its description in words: the student's graph is built in critic steps and
thrown away, critic weights get gradients in student steps, optimisers are torch's default, averages are a Python loop over weights, one
evaluation for each set of points. Its `gc.collect()` at every step is left out and timed by itself.
`by hand` is the best loop that we could write for this very case. `matchlib` is the trainer without monitor and log.
One process, alternating; medians of ratios and the 95% interval of the median (from order statistics). On a device, only its own clock
counts: a block of cycles ends when the device is done.
`of peak`: floating point operations of matrix products and convolutions, over those of one large matrix product in the same time.

    python -m benchmarks.speed.step [--only "MLP, 0.45 M"] [--rounds 15] [--compile] [--threads 2]
        [--device cuda --precision bf16 --out FILE]
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import matchlib
from benchmarks.record import RESULTS, save
from matchlib.algebra.records import Condition
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json
from matchlib.plugins.losses import RealUID
from matchlib.plugins.tasks import DistillationTask
from matchlib.runs.artifact import build_field
from matchlib.training.precision import prepare
from matchlib.training.random import Streams
from matchlib.training.settings import TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer

ALPHA, BETA, GAMMA = 2.0, 2.0, 0.5
CRITIC_STEPS = 5
DECAYS = (0.999, 0.9996, 0.9999)
RATE, BETAS = 1e-4, (0.0, 0.999)
BOUNDS = {"by hand": 1.05, "plain, MLP": 0.8, "plain, U-Net": 1.03, "plain, U-Net compiled": 0.8}


@dataclass(frozen=True)
class Case:
    """A network, the side of its images, batches, cycles in a block."""

    network: dict[str, Any]
    side: int
    batches: dict[int, int]
    channels: int = 1


@dataclass(frozen=True)
class Way:
    """How networks are evaluated."""

    device: torch.device = torch.device("cpu")
    precision: str = "fp32"


CPU = Way()
CASES = {
    "MLP, 0.45 M": Case({"name": "mlp", "width": 228}, 8, {32: 10, 128: 10, 512: 5}),
    "U-Net, 1 M": Case({"name": "unet", "channels": 44}, 16, {8: 3, 32: 1}),
    "U-Net, 10 M": Case({"name": "unet", "channels": 96, "multipliers": (1, 2, 2), "blocks": 2}, 16, {8: 1}),
}
ON_DEVICE = {
    "MLP, 0.45 M, cuda": Case({"name": "mlp", "width": 228}, 8, {512: 20}),
    "U-Net, 14 M, cuda": Case({"name": "unet", "channels": 112, "multipliers": (1, 2, 2), "blocks": 2}, 32, {128: 2}, 3),
}


class Setting:
    """Data, model and the network that every loop starts from."""

    def __init__(self, case: Case, way: Way = CPU) -> None:
        torch.manual_seed(0)
        images = np.random.default_rng(0).normal(size=(1024, case.channels, case.side, case.side)).astype(np.float32)
        self.way, self.data = way, Dataset.from_arrays("images", images, labels=np.arange(1024) % 10)
        self.model = matchlib.families["flow"]().model(paired=False)
        moments = self.data.moments(self.model.coupling)
        self.field = build_field(case.network, NetworkSpec(self.data.shape, 10), self.model, moments)
        for weight in self.field.parameters():
            nn.init.normal_(weight, std=0.05)
        self.field, self.data = self.field.to(way.device), self.data.compact().to(way.device)


def through_matchlib(of: Setting, batch: int, compile: str | None = None) -> Callable[[], None]:
    """Returns one cycle through the library."""
    teacher = Teacher(copy.deepcopy(of.field), of.model)
    student, critic = matchlib.students["onestep"](teacher, None, t_start=1.0), copy.deepcopy(of.field)
    for module in (teacher, student, critic):
        prepare(module, compile=compile, precision=of.way.precision)
    distillation = Distillation(teacher, student, critic, RealUID(ALPHA, BETA, GAMMA, weight_power=1.0))
    learners = Learner(student, RATE, BETAS, DECAYS[0], DECAYS[1:]), Learner(critic, RATE, BETAS, 0.0)
    streams = Streams(0, of.way.device)
    algorithm = DistillationTask(distillation, *learners, of.data, streams, batch_size=batch, critic_steps=CRITIC_STEPS)
    trainer = Trainer(algorithm, TrainerSettings(steps=10**9))

    def cycle() -> None:
        for _ in range(CRITIC_STEPS + 1):
            trainer.step()

    return cycle


class Loop:
    """What both hand-written loops share: flow matching and RealUID spelled out for images with classes, nothing else.

    Args:
        optimised: what is worth doing is done; else the loop is the released code's.
        joint: generated and real points are one batch for the critic.
    """

    def __init__(self, of: Setting, batch: int, *, optimised: bool, joint: bool = False, compile: str | None = None) -> None:
        self.batch, self.optimised, self.joint = batch, optimised, joint
        self.nets = [copy.deepcopy(of.field.network) for _ in range(3)]
        if compile is not None:
            for net in self.nets:
                net.compile(mode=compile)
        self.student, self.critic, self.teacher = self.nets
        self.teacher.requires_grad_(False)
        self.x, self.y = of.data.train.data, of.data.train.label
        fused = {"fused": True} if optimised else {}
        self.adams = [torch.optim.Adam(net.parameters(), RATE, BETAS, **fused) for net in (self.student, self.critic)]
        self.weights = [list(net.parameters()) for net in (self.student, self.critic)]
        self.means = [[w.detach().clone() for w in self.weights[0]] for _ in DECAYS]
        self.device, self.half = of.way.device, of.way.precision == "bf16"
        self.generator = torch.Generator(self.device).manual_seed(0)
        self.ones = torch.ones(batch, device=self.device)

    def velocity(self, net: nn.Module, state: Tensor, t: Tensor, label: Tensor) -> Tensor:
        a, b = 1 - t, t
        size = (a * a + b * b).sqrt()
        r = (-1, 1, 1, 1)
        skip, out = ((b - a) / (size * size)).view(r), (1 / size).view(r)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            answer = net((1 / size).view(r) * state, t, Condition(label))
        return skip * state + out * answer.float()

    def points(self, clean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = (torch.rand((), generator=self.generator, device=self.device) + torch.arange(self.batch, device=self.device) / self.batch) % 1.0
        z = torch.randn(clean.shape, generator=self.generator, device=self.device)
        s = t.view(-1, 1, 1, 1)
        return t, (1 - s) * clean + s * z, z - clean

    def indices(self) -> Tensor:
        return torch.randint(len(self.x), (self.batch,), generator=self.generator, device=self.device)

    def generate(self, label: Tensor) -> Tensor:
        z = torch.randn((self.batch, *self.x.shape[1:]), generator=self.generator, device=self.device)
        return z - self.velocity(self.student, z, self.ones, label)

    def q(self, f: Tensor, f_star: Tensor, target: Tensor, g: float, a: float, b: float) -> Tensor:
        d = f - f_star
        return (d * (2 * b * target - 2 * a * f_star - g * d)).flatten(1).sum(1)

    def step(self, which: int, loss: Tensor) -> None:
        if self.optimised:
            self.adams[which].zero_grad(set_to_none=True)
            loss.backward(inputs=self.weights[which])
        else:
            for adam in self.adams:
                adam.zero_grad()
            loss.backward()
        self.adams[which].step()

    def critic_step(self) -> None:
        i, j = (self.indices() for _ in range(2))
        with torch.set_grad_enabled(not self.optimised):
            fake = self.generate(self.y[i])
        labels = self.y[i], self.y[j]
        seen = self.points(fake.detach()), self.points(self.x[j])
        if self.joint:
            t, state, target = (torch.cat(pair) for pair in zip(*seen, strict=True))
            label = torch.cat(labels)
            with torch.no_grad():
                f_star = self.velocity(self.teacher, state, t, label)
            f = self.velocity(self.critic, state, t, label)
            each = list(zip(f.chunk(2), f_star.chunk(2), target.chunk(2), strict=True))
        else:
            each = []
            for (t, state, target), label in zip(seen, labels, strict=True):
                with torch.no_grad():
                    f_star = self.velocity(self.teacher, state, t, label)
                each.append((self.velocity(self.critic, state, t, label), f_star, target))
        generated, real = (self.q(*x, *y) for x, y in zip(each, ((GAMMA, ALPHA, BETA), (1 - GAMMA, 1 - ALPHA, 1 - BETA)), strict=True))
        self.step(1, -(generated + real).mean())

    def student_step(self) -> None:
        i = self.indices()
        t, state, target = self.points(self.generate(self.y[i]))
        if self.optimised:
            self.critic.requires_grad_(False)
        f, f_star = (self.velocity(net, state, t, self.y[i]) for net in (self.critic, self.teacher))
        loss = self.q(f, f_star, target, GAMMA, ALPHA, BETA)
        error = (target - f_star).detach().abs().flatten(1).mean(1)
        self.step(0, (loss / error).mean())
        self.critic.requires_grad_(True)
        with torch.no_grad():
            for mean, decay in zip(self.means, DECAYS, strict=True):
                if self.optimised:
                    torch._foreach_lerp_(mean, self.weights[0], 1 - decay)
                else:
                    for m, w in zip(mean, self.weights[0], strict=True):
                        m.mul_(decay).add_(w, alpha=1 - decay)

    def __call__(self) -> None:
        for _ in range(CRITIC_STEPS):
            self.critic_step()
        self.student_step()


def seconds(cycle: Callable[[], None], cycles: int) -> float:
    wait = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    wait()
    begin = time.perf_counter()
    for _ in range(cycles):
        cycle()
    wait()
    return (time.perf_counter() - begin) / cycles


def median(values: list[float]) -> dict[str, float]:
    """Returns the median and its 95% interval."""
    x, n = sorted(values), len(values)
    low = int(stats.binom.ppf(0.025, n, 0.5))
    return {"median": statistics.median(x), "low": x[max(low - 1, 0)], "high": x[min(n - low, n - 1)]}


def peak(way: Way, times: int = 8) -> float:
    """Returns floating point operations a second of a large matrix product."""
    size = 1536 if way.device.type == "cpu" else 8192
    a = torch.randn(size, size, device=way.device, dtype=torch.bfloat16 if way.precision == "bf16" else torch.float32)
    a @ a
    return 2 * size**3 / min(seconds(lambda: a @ a, 1) for _ in range(times))


def operations(cycle: Callable[[], None]) -> int:
    """Returns floating point operations of matrix products and convolutions in a cycle."""
    with FlopCounterMode(display=False) as counted:
        cycle()
    return int(counted.get_total_flops())


def measured(name: str, case: Case, batch: int, rounds: int, compile: str | None, way: Way) -> dict[str, Any]:
    """Returns a row of the table."""
    of, cycles = Setting(case, way), case.batches[batch]
    trial = {x: Loop(of, batch, optimised=True, joint=x) for x in (False, True)}
    for loop in trial.values():
        seconds(loop, cycles)
    faster = [seconds(trial[False], cycles) > seconds(trial[True], cycles) for _ in range(5)]  # the best by hand is chosen by measurement
    joint = sum(faster) > 2
    loops = {
        "matchlib": through_matchlib(of, batch),
        "by hand": Loop(of, batch, optimised=True, joint=joint),
        "plain": Loop(of, batch, optimised=False),
    }
    flops = operations(loops["by hand"])  # its hooks do not bear gradients of leaves, as matchlib takes them
    if compile is not None:
        loops |= {
            "matchlib, compiled": through_matchlib(of, batch, compile),
            "by hand, compiled": Loop(of, batch, optimised=True, joint=joint, compile=compile),
        }
    for cycle in loops.values():
        seconds(cycle, max(cycles, 2))
    times: dict[str, list[float]] = {key: [] for key in loops}
    for i in range(rounds):
        order = list(loops)
        for key in order[i % len(order) :] + order[: i % len(order)]:
            times[key].append(seconds(loops[key], cycles))
    gc.collect()
    row: dict[str, Any] = {"case": name, "batch": batch, "weights": sum(w.numel() for w in of.field.parameters())}
    row |= {"precision": way.precision, "joint by hand": joint, "rounds": rounds, "cycles": cycles}
    row |= {"ms": {key: 1e3 * statistics.median(x) for key, x in times.items()}}
    pairs = [("matchlib", "by hand"), ("matchlib", "plain")]
    pairs += [("matchlib, compiled", "by hand, compiled"), ("matchlib, compiled", "plain")] if compile else []
    row |= {f"{a} / {b}": median([x / y for x, y in zip(times[a], times[b], strict=True)]) for a, b in pairs}
    row["of peak"] = flops / statistics.median(times["matchlib"]) / peak(way)
    row["gc.collect ms"] = 1e3 * seconds(gc.collect, 3) * (CRITIC_STEPS + 1)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=[*CASES, *ON_DEVICE])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", nargs="?", const="default", default=None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", choices=["fp32", "tf32", "bf16"], default="fp32")
    parser.add_argument("--out", type=Path, default=None, help="where rows go as JSON, in place of results/step.json")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.precision == "tf32":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    path, way, cases = RESULTS / "step.json", Way(given.device, given.precision), CASES | ON_DEVICE
    before = read_json(path)["rows"] if path.exists() and given.out is None else []
    rows = [row for row in before if row.get("case") in set(CASES) - set(given.only)]
    for name in given.only:
        for batch in cases[name].batches:
            rows.append(measured(name, cases[name], batch, given.rounds, given.compile, way))
            shown = {key: round(x["median"], 3) for key, x in rows[-1].items() if isinstance(x, dict) and "median" in x}
            more = {"weights": rows[-1]["weights"], "of peak": round(rows[-1]["of peak"], 3)}
            print(name, batch, more, {key: round(x, 1) for key, x in rows[-1]["ms"].items()}, shown, flush=True)
            if given.out is not None:
                given.out.write_text(json.dumps(rows, indent=1) + "\n")
            else:
                save("step", rows, bounds=BOUNDS)


if __name__ == "__main__":
    main()
