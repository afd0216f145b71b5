"""Is the abstraction free? A cycle of one critic and one student turn through matchlib, against the same mathematics written by hand.

Same network, same batch, same optimiser and average, one process, alternating blocks; the median of the ratios and its interquartile range.

    python benchmarks/step.py [--batch 128] [--rounds 30]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from record import save
from torch import nn

import matchlib
from matchlib.algebra.records import Condition
from matchlib.cards import build_field
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.field import Signature
from matchlib.distillation.teacher import Teacher
from matchlib.plugins.losses.realuid import RealUID
from matchlib.streams import Streams
from matchlib.training.algorithm import Learner
from matchlib.training.distilling import Distilling
from matchlib.training.trainer import Trainer, TrainerSettings

ALPHA, BETA, GAMMA = 2.0, 2.0, 0.5


def pieces() -> tuple:
    """The demo's data, model and three copies of its network."""
    torch.manual_seed(0)
    data = matchlib.datasets["digits"]()
    model = matchlib.families["flow"]().model(paired=False)
    field = build_field({"name": "mlp"}, Signature(data.shape, data.classes), model, data.moments(model.coupling))
    for weight in field.parameters():
        nn.init.normal_(weight, std=0.05)
    return data, model, field


def through_matchlib(batch: int) -> Callable[[], None]:
    """Returns one cycle through the library."""
    data, model, field = pieces()
    teacher = Teacher(field, model)
    student = matchlib.students["onestep"](teacher, None, start=1.0)
    critic = copy.deepcopy(field)
    distillation = Distillation(teacher, student, critic, RealUID(ALPHA, BETA, GAMMA, weight_power=1.0))
    learners = Learner(student, 1e-4, (0.0, 0.999), 0.999), Learner(critic, 1e-4, (0.0, 0.999), 0.0)
    algorithm = Distilling(distillation, *learners, data, Streams(0, torch.device("cpu")), batch=batch)
    trainer = Trainer(algorithm, TrainerSettings(10**9))

    def cycle() -> None:
        trainer._turn()
        trainer._turn()

    return cycle


def by_hand(batch: int) -> Callable[[], None]:
    """Returns one cycle of the best loop that we could write for this very case: no classes, flow matching spelled out."""
    data, _, field = pieces()
    teacher, student, critic = (copy.deepcopy(field.network) for _ in range(3))
    teacher.requires_grad_(False)
    x, y = data.train.data, data.train.label
    adams = [torch.optim.Adam(net.parameters(), 1e-4, (0.0, 0.999), fused=True) for net in (student, critic)]
    weights = [list(net.parameters()) for net in (student, critic)]
    mean = [w.detach().clone() for w in weights[0]]
    generator = torch.Generator().manual_seed(0)
    ones = torch.ones(batch)

    def velocity(net: nn.Module, state: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        a, b = 1 - t, t
        size = (a * a + b * b).sqrt()
        r = (-1, 1, 1, 1)
        skip, out = ((b - a) / (size * size)).view(r), (1 / size).view(r)
        return skip * state + out * net((1 / size).view(r) * state, t, Condition(label))

    def points(clean: torch.Tensor) -> tuple:
        t = (torch.rand(1, generator=generator) + torch.arange(batch) / batch) % 1.0
        z = torch.randn(clean.shape, generator=generator)
        s = t.view(-1, 1, 1, 1)
        return t, (1 - s) * clean + s * z, z - clean

    def generate(label: torch.Tensor) -> torch.Tensor:
        z = torch.randn(batch, 1, 8, 8, generator=generator)
        return z - velocity(student, z, ones, label)

    def q(clean: torch.Tensor, label: torch.Tensor, g: float, a: float, b: float) -> tuple:
        t, state, target = points(clean)
        f, f_star = velocity(critic, state, t, label), velocity(teacher, state, t, label)
        d = f - f_star
        return (d * (2 * b * target - 2 * a * f_star - g * d)).flatten(1).sum(1), (target - f_star).detach().abs().flatten(1).mean(1)

    def step(which: int, loss: torch.Tensor) -> None:
        adams[which].zero_grad(set_to_none=True)
        loss.backward(inputs=weights[which])
        adams[which].step()

    def cycle() -> None:
        i, j = (torch.randint(len(x), (batch,), generator=generator) for _ in range(2))
        with torch.no_grad():
            fake = generate(y[i])
        real, _ = q(x[j], y[j], 1 - GAMMA, 1 - ALPHA, 1 - BETA)
        generated, _ = q(fake, y[i], GAMMA, ALPHA, BETA)
        step(1, -(generated + real).mean())
        i = torch.randint(len(x), (batch,), generator=generator)
        loss, error = q(generate(y[i]), y[i], GAMMA, ALPHA, BETA)
        step(0, (loss / error).mean())
        with torch.no_grad():
            torch._foreach_lerp_(mean, weights[0], 0.001)

    return cycle


def seconds(cycle: Callable[[], None], cycles: int) -> float:
    begin = time.perf_counter()
    for _ in range(cycles):
        cycle()
    return (time.perf_counter() - begin) / cycles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--cycles", type=int, default=15)
    given = parser.parse_args()
    library, hand = through_matchlib(given.batch), by_hand(given.batch)
    for cycle in (library, hand):
        seconds(cycle, given.cycles)
    times = []
    for i in range(given.rounds):
        first, second = (library, hand) if i % 2 else (hand, library)
        pair = [seconds(first, given.cycles), seconds(second, given.cycles)]
        times.append(pair if i % 2 else pair[::-1])
    ratios = sorted(ours / theirs for ours, theirs in times)
    quartiles = statistics.quantiles(ratios, n=4)
    row = {
        "batch": given.batch,
        "matchlib_ms": 1e3 * statistics.median(t[0] for t in times),
        "by_hand_ms": 1e3 * statistics.median(t[1] for t in times),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
        "rounds": given.rounds,
    }
    print(f"matchlib {row['matchlib_ms']:.1f} ms, by hand {row['by_hand_ms']:.1f} ms a cycle")
    print(f"ratio {row['ratio']:.3f}, quartiles {quartiles[0]:.3f} to {quartiles[2]:.3f}")
    save("step", [row], bounds={"ratio": 1.05})


if __name__ == "__main__":
    main()
