"""Does a zero of the loss mean that the student has the real law? Exact, in one dimension.

    python -m benchmarks.studies.claims.uniqueness      about 5 minutes on one core

Independent Gaussian source: students that are mixtures of two Gaussians are fitted from many starts, to one time and to several; wherever
the value is as small as at the real law, the student is the real law. Paired data with an unseen source (an unconditional bridge, a
two-sided interpolant, a flow on pairs): at one time other joint laws have the same field, and other times tell them apart.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.record import STUDIES, cell, save
from benchmarks.studies.claims.common import SIDE, model_of, nodes_of, realuid
from matchlib import couplings, families
from matchlib.algebra.times import TimeDistribution
from matchlib.fields.exact import Mixture
from matchlib.testing.world import World, affine_divergence, least

STARTS = 12


def two_humps(knobs: Tensor) -> Mixture:
    """A mixture of two Gaussians of five free numbers, with a standard normal source."""
    share = torch.sigmoid(knobs[0])
    parts = [Mixture.normal(knobs[1 + i], knobs[3 + i].exp()) for i in range(2)]
    weights = torch.stack([share, 1 - share])[None]
    return Mixture(weights, torch.cat([x.mean for x in parts], 1), torch.cat([x.covariance for x in parts], 1))


def distance(left: Mixture, right: Mixture) -> float:
    """Total variation of the laws of the data, by quadrature."""
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    rows = torch.tensor([[[1.0, 0.0, 0.0]]], dtype=torch.float64)
    densities = [law.log_density(rows, x[:, None]).exp() for law in (left, right)]
    return float((densities[0] - densities[1]).abs().sum() * 0.006 / 2)


def one_sided(family: str, setting: tuple[float, float, float | None], times: str) -> dict:
    """Fits from many starts; the worst distance to the real law among those whose value is as good as zero."""
    model = model_of(family)
    real = two_humps(torch.tensor([0.4, -1.2, 1.3, -0.7, -0.4], dtype=torch.float64))
    chosen = nodes_of(model)[4::8] if times == "all" else nodes_of(model)[12:13]
    generator = torch.Generator().manual_seed(0)
    ends = []
    for _ in range(STARTS):
        start = (torch.randn(5, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 1.5, 1.5, 0.4, 0.4])).tolist()

        def value(knobs: Tensor) -> Tensor:
            made = two_humps(knobs)
            return torch.stack([World(model, real, made, t, side=SIDE).value(realuid(*setting)) for t in chosen]).mean()

        knobs, lowest = least(value, start, rounds=150)
        ends.append((lowest, distance(two_humps(torch.tensor(knobs, dtype=torch.float64)), real)))
    zero = [far for lowest, far in ends if lowest < 1e-9]
    return {
        "starts": STARTS,
        "ended at a zero": len(zero),
        "largest distance there": max(zero, default=None),
        "least value elsewhere": min((lowest for lowest, far in ends if lowest >= 1e-9), default=None),
    }


def paired(name: str, objective: str) -> dict:
    """Another joint law with the same field at one time, and what it costs at other times."""
    family = families[name]()
    model = replace(family.model(paired=False), coupling=couplings["paired"](), times=TimeDistribution(0.1, 0.9))
    model = replace(model, objective=type(model_of("flow", objective).objective)())
    real = joint(torch.tensor([1.0, 0.8, 0.5], dtype=torch.float64))

    def zero_at(t: float, std: float) -> tuple[list[float], float]:
        return least(
            lambda knobs: affine_divergence(model, real, joint(torch.stack([knobs[0], torch.tensor(std), knobs[1]])), t), (0.9, 0.3), 200
        )

    t, std = 0.4, 0.85
    (mean, correlation), lowest = zero_at(t, std)
    other = joint(torch.tensor([mean, std, correlation], dtype=torch.float64))
    elsewhere = {str(s): float(affine_divergence(model, real, other, s)) for s in (0.2, 0.3, 0.5, 0.7)}
    return {
        "real": {"mean": 1.0, "std": 0.8, "correlation": math.tanh(0.5)},
        "student": {"mean": mean, "std": std, "correlation": math.tanh(correlation)},
        "value at t = .4": lowest,
        "value at other times": elsewhere,
    }


def joint(knobs: Tensor) -> Mixture:
    """Data N(m, s^2) and source N(0, 1) with a correlation, whose inverse hyperbolic tangent is the last knob."""
    mean, std, correlation = knobs[0], knobs[1], torch.tanh(knobs[2])
    table = torch.stack([std * std, correlation * std, correlation * std, torch.ones_like(std)]).reshape(1, 1, 2, 1, 2, 1)
    means = torch.stack([mean, torch.zeros_like(mean)]).reshape(1, 1, 2, 1)
    return Mixture(torch.ones(1, 1, dtype=torch.float64), means, table)


def main() -> None:
    rows = []
    for family in ("flow", "diffusion-vp", "bridge", "interpolant"):
        for setting in ((1.0, 1.0, None), (0.92, 0.94, None), (2.0, 2.0, 0.5), (2.0, 1.5, 0.5)):
            for times in ("one", "all"):
                key = {"claim": "uniqueness", "family": family, "setting": [str(x) for x in setting], "times": times, "v": 2}
                found = cell(key, lambda f=family, s=setting, t=times: one_sided(f, s, t))
                rows.append(
                    {"source": "independent Gaussian", "family": family, "alpha, beta, gamma": list(setting), "times": times, **found}
                )
                print(rows[-1], flush=True)
    for name, objective in (("bridge", "data"), ("interpolant", "velocity"), ("flow", "velocity")):
        key = {"claim": "uniqueness, paired", "family": name, "objective": objective, "v": 3}
        rows.append({"source": "paired, unseen", "family": name, "space": objective, **cell(key, lambda n=name, o=objective: paired(n, o))})
        print(rows[-1], flush=True)
    save("claims-uniqueness", rows, folder=STUDIES)


if __name__ == "__main__":
    main()
