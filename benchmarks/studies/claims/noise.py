"""What extrapolation costs in noise, and what it gains in pull: through the library's own losses, at the optimum, with the best critic.

    python -m benchmarks.studies.claims.noise      about 2 minutes on one core

Flow, data N(2, 1), teacher N(2.2, 1), student Gaussian at its optimum, batches of 256. *Noise*: variance over batches of the critic's
gradient, in a constant added to the best critic. *Pull*: curvature of the value in the student's mean. Both are divided by those of UID;
theory says beta^2 + (1 - beta)^2 for the noise and beta^2 for the pull, so that noise per pull goes from 1 to 2 as alpha = beta grows.
That is for points drawn independently; the library's generated and real points share time, source and noise: measured too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.record import STUDIES, cell, save
from benchmarks.studies.claims.common import average, end_of, model_of, realuid
from matchlib.algebra.records import Batch
from matchlib.distillation.distillation import Distillation
from matchlib.fields.exact import BestCritic, GaussianField, Mixture
from matchlib.fields.teacher import Teacher
from matchlib.testing.world import AffineStudent, weights_of

REAL, WRONG, BATCH, ROUNDS = (2.0, 1.0), (2.2, 1.0), 256, 600
SETTINGS = [
    *((1.0, 1.0, None), (0.92, 0.94, None), (0.9, 0.9, None)),
    *((a, a, 0.5) for a in (1.5, 2.0, 4.0, 8.0, 16.0)),
    *((2.0, 2.0, g) for g in (0.25, 0.75)),
]


class _Moved(nn.Module):
    """A critic and a constant."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic, self.by = critic, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, *point: object) -> Tensor:
        return self.critic(*point) + self.by


def independent(of: Distillation, real: Batch, prompt: Batch, generator: torch.Generator) -> Tensor:
    """Returns the critic's loss at points that share nothing."""
    with torch.no_grad():
        points = [
            of.sample_path(of.generate(prompt, generator=generator), real=real, generator=generator),
            of.model.sample_path(real, generator=generator),
        ]
    ((generated,), (known,)) = of.predictions(*points)
    return of.loss.critic_loss(generated, known if of.loss.uses_real else None).mean()


def measured(alpha: float, beta: float, gamma: float | None) -> dict:
    loss, model = realuid(alpha, beta, gamma), model_of("flow")
    mean, std, _ = end_of(model, loss, REAL, WRONG)
    real, wrong, made = (Mixture.normal(*law) for law in (REAL, WRONG, (mean, std)))
    field = GaussianField(model, wrong)
    student = AffineStudent(torch.tensor([mean]), std * 0.6, std * 0.8)
    critic = _Moved(BestCritic(model, real, made, field, *weights_of(loss)))
    of = Distillation(Teacher(field, model), student, critic, loss)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {"noise": [], "noise shared": []}
    for _ in range(ROUNDS):
        prompt, other = (real.sample(BATCH, generator) for _ in range(2))
        for name, value in (
            ("noise", independent(of, other, prompt, generator)),
            ("noise shared", of.critic_loss(prompt=prompt, real=other, generator=generator)),
        ):
            found[name].append(torch.autograd.grad(value, critic.by)[0].item())
    knob = torch.tensor(mean, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(average(model, loss, real, Mixture.normal(knob, std), wrong), knob, create_graph=True)
    (pull,) = torch.autograd.grad(slope, knob)
    return {"mean": mean, "pull": pull.item()} | {name: torch.tensor(values).var().item() for name, values in found.items()}


def main() -> None:
    rows = []
    for setting in SETTINGS:
        key = {"claim": "noise", "setting": [str(x) for x in setting], "v": 3}
        rows.append({"alpha": setting[0], "beta": setting[1], "gamma": setting[2], **cell(key, lambda s=setting: measured(*s))})
    for row in rows:
        row |= {"noise per pull": row["noise"] / row["pull"], "noise per pull, shared": row["noise shared"] / row["pull"]}
    unit = {key: value for key, value in rows[0].items() if "noise" in key or key == "pull"}  # UID has no real points: 1 either way
    for row in rows:
        row |= {key: row[key] / one for key, one in unit.items()}
        row["noise by theory"] = row["beta"] ** 2 + (1 - row["beta"]) ** 2
        print({key: round(x, 3) if isinstance(x, float) else x for key, x in row.items()})
    save("claims-noise", rows, batch=BATCH, relative_error=(2 / ROUNDS) ** 0.5, folder=STUDIES)


if __name__ == "__main__":
    main()
