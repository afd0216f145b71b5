"""What depends on the prediction space, and on where the data lie: exact, in one Gaussian dimension, at t = .4.

    python -m benchmarks.studies.claims.spaces      seconds

p = N(1, 1.3^2), q = N(-.5, .8^2), flow with a normal source. The same loss is taken in five spaces; then all data are moved by 1 and by 3.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.record import STUDIES, save
from benchmarks.studies.claims.common import model_of, realuid
from matchlib.algebra.convert import conversion
from matchlib.fields.exact import Mixture
from matchlib.testing.world import World

SPACES = ("velocity", "data", "score", "epsilon", "v")
SETTINGS = [(1.0, 1.0, None), (0.9, 0.9, None), (2.0, 2.0, 0.5), (0.92, 0.94, None), (0.98, 0.96, None), (2.0, 1.5, 0.5)]
TIME, REAL, MADE = 0.4, (1.0, 1.3), (-0.5, 0.8)


def value(space: str, setting: tuple[float, float, float | None], moved: float = 0.0) -> float:
    """The value without the space's own time weight."""
    real, made = Mixture.normal(REAL[0] + moved, REAL[1]), Mixture.normal(MADE[0] + moved, MADE[1])
    world = World(model_of("flow", space), real, made, TIME)
    return float(world.value(realuid(*setting)) / world.weight)


def factor(space: str) -> float:
    """A(t)^2 of the conversion from velocity."""
    velocity = model_of("flow", "velocity")
    wanted = replace(velocity, objective=model_of("flow", space).objective)
    at = velocity.interpolant.coefficients(torch.tensor([TIME], dtype=torch.float64))
    return float(torch.as_tensor(conversion(velocity, wanted.objective).coefficients(at)[0])) ** 2


def main() -> None:
    rows = []
    for setting in SETTINGS:
        for space in SPACES:
            here = value(space, setting)
            line = {
                "alpha": setting[0],
                "beta": setting[1],
                "gamma": setting[2],
                "space": space,
                "value": here,
                "over A^2 times that in velocity": here / (factor(space) * value("velocity", setting)),
                "after moving by 1, relative": value(space, setting, 1.0) / here,
                "after moving by 3, relative": value(space, setting, 3.0) / here,
            }
            rows.append(line)
            print({key: round(x, 6) if isinstance(x, float) else x for key, x in line.items()})
    save("claims-spaces", rows, time=TIME, real=list(REAL), made=list(MADE), folder=STUDIES)


if __name__ == "__main__":
    main()
