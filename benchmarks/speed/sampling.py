"""What does a teacher's sample cost through torchdiffeq? Seconds against a hand-written Euler or Heun loop, and error against evaluations.

The hand-written loop knows the very network and flow matching's path and evaluates the same network at the same times, so that both make
the same samples; medians of ratios with the 95% interval of the median, alternating in one process. Errors are root mean squares of the
difference to 1,000 steps of Heun, over the samples' standard deviation, for the default teacher trained on digits.

    python -m benchmarks.speed.sampling [--rounds 15] [--threads 2]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import matchlib
from benchmarks.record import CACHE, save
from benchmarks.speed.step import CASES, Loop, Setting, median, seconds
from matchlib.fields.sampler import SampledField
from matchlib.fields.teacher import Teacher
from matchlib.plugins.samplers import ODE

SPEED = {("MLP, 0.45 M", 64): 20, ("MLP, 0.45 M", 512): 5, ("U-Net, 1 M", 32): 1}  # network and samples: draws in a block
METHODS = {"euler": 50, "heun2": 25}
PLACE = CACHE / "sampling"


def by_hand(of: Loop, method: str, steps: int, source: Tensor, label: Tensor) -> Tensor:
    """Returns samples of the plain loop."""
    x, ones, h = source, torch.ones(len(source)), 1 / steps
    for i in range(steps):
        t = 1 - i * h
        first = of.velocity(of.teacher, x, t * ones, label)
        if method == "euler":
            x = x - h * first
        else:
            second = of.velocity(of.teacher, x - h * first, (t - h) * ones, label)
            x = x - (h / 2) * (first + second)
    return x


def speed(name: str, size: int, draws: int, method: str, rounds: int) -> dict[str, Any]:
    """Returns a row of timings; both ways are checked to make the same samples."""
    setting = Setting(CASES[name])
    hand, teacher = Loop(setting, size, optimised=True), Teacher(setting.field, setting.model)
    steps = METHODS[method]
    sampler, of = ODE(method, steps), SampledField(teacher, setting.model, teacher.moments)
    source, label = torch.randn(size, *setting.data.shape), torch.arange(size) % 10
    generator = torch.Generator().manual_seed(0)
    ways: dict[str, Callable[[], Tensor]] = {
        "matchlib": lambda: sampler.sample(of, source, label, generator=generator).data,
        "by hand": lambda: by_hand(hand, method, steps, source, label),
    }
    made = [way() for way in ways.values()]
    apart = float((made[0] - made[1]).abs().max() / made[1].std())
    assert apart < 1e-3, apart
    times: dict[str, list[float]] = {key: [] for key in ways}
    for i in range(rounds):
        for key in list(ways)[:: 1 if i % 2 else -1]:
            times[key].append(seconds(ways[key], draws))  # type: ignore[arg-type]
    ratio = median([a / b for a, b in zip(times["matchlib"], times["by hand"], strict=True)])
    ms = {key: 1e3 * statistics.median(x) for key, x in times.items()}
    nfe = sampler.sample(of, source, label, generator=generator).nfe
    row = {"what": "speed", "case": name, "samples": size, "method": method, "steps": steps, "nfe": nfe}
    return row | {"rounds": rounds, "apart": apart, "ms": ms, "matchlib / by hand": ratio}


def trained() -> Teacher:
    """Returns the default teacher."""
    if not (PLACE / "teacher").exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        matchlib.train("flow", out=PLACE, settings={"evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",)})
    module = matchlib.load(PLACE).module
    assert isinstance(module, Teacher)
    return module.double()


def errors(teacher: Teacher) -> list[dict[str, Any]]:
    """Returns evaluations and errors of the methods."""
    of = SampledField(teacher, teacher.model, teacher.moments)
    source, label = torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double(), torch.arange(256) % 10
    exact = ODE("heun2", 1000).sample(of, source, label, generator=torch.Generator()).data
    rows = []
    tried = [ODE(method, steps) for method in ("euler", "midpoint", "heun2", "rk4") for steps in (5, 10, 25, 50, 100)]
    tried += [ODE(method, rtol=tolerance, atol=tolerance) for method in ("dopri5", "bosh3") for tolerance in (1e-1, 1e-2, 1e-3, 1e-4)]
    for sampler in tried:
        begin = seconds(lambda: None, 1)
        made = sampler.sample(of, source, label, generator=torch.Generator())
        took = seconds(lambda sampler=sampler: sampler.sample(of, source, label, generator=torch.Generator()), 1) - begin  # type: ignore[misc]
        error = float((made.data - exact).square().mean().sqrt() / exact.std())
        how = {"steps": sampler.steps} if sampler.order is not None else {"tolerance": sampler.rtol}
        rows.append({"what": "error", "method": sampler.method, **how, "nfe": made.nfe, "error": error, "seconds": took})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    teacher = trained()
    with torch.inference_mode():
        rows = errors(teacher)
        for row in rows:
            print({key: row[key] for key in ("method", "nfe", "error")})
        for (name, size), draws in SPEED.items():
            for method in METHODS:
                rows.append(speed(name, size, draws, method, given.rounds))
                print(name, size, method, rows[-1]["ms"], rows[-1]["matchlib / by hand"], flush=True)
    save("sampling", rows, bounds={"MLP": 1.15, "U-Net": 1.02})


if __name__ == "__main__":
    main()
