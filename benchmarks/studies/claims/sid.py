"""What SiD's a does: value and slope at the best critic, as the student moves away from the real law. Exact, in one Gaussian dimension.

    python -m benchmarks.studies.claims.sid      seconds

Flow, data space, real law N(0, 1), student N(h, 1) and N(0, (1 + h)^2), averaged over t. The student's slope is that of its loss with the
critic's function held fixed at f_q, which is what backpropagation gives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.record import STUDIES, save
from benchmarks.studies.claims.common import SIDE, model_of, nodes_of
from matchlib.fields.exact import Mixture
from matchlib.plugins.losses import UID, SiD
from matchlib.testing.world import World


def slopes(a: float, h: float, what: str) -> dict:
    """Value and slope of SiD's student loss, and the slope of half the divergence."""
    model, real, loss = model_of("flow", "data"), Mixture.normal(0.0, 1.0), SiD(a=a, weight_power=0.0)
    knob = torch.tensor(h, dtype=torch.float64, requires_grad=True)
    made = Mixture.normal(knob, 1.0) if what == "mean" else Mixture.normal(0.0, 1.0 + knob)
    worlds = [World(model, real, made, t, side=4 * SIDE + 1) for t in nodes_of(model)]
    student = _mean([world.student_loss(loss, world.best(loss)(*world.point).detach()) for world in worlds])
    divergence = _mean([world.value(UID(weight_power=0.0)) for world in worlds])
    mine, half = (torch.autograd.grad(x, knob, retain_graph=True)[0].item() for x in (student, 0.5 * divergence))
    return {"a": a, "moved": what, "by": h, "value over divergence": (student / divergence).item(), "slope over that of D/2": mine / half}


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def main() -> None:
    rows = [
        slopes(a, h, what) for what in ("mean", "spread") for a in (0.5, 1.0, 1.2) for h in (-0.8, -0.5, 0.01, 0.1, 0.5, 1.0, 2.0, 6.0, 9.0)
    ]
    for row in rows:
        print({key: round(x, 4) if isinstance(x, float) else x for key, x in row.items()})
    save("claims-sid", rows, folder=STUDIES)


if __name__ == "__main__":
    main()
