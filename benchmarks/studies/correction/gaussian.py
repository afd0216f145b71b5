"""Does the library's own trainer end where quadrature says? One Gaussian dimension, a teacher whose mean is wrong, alpha = beta.

    python -m benchmarks.studies.correction.gaussian [--families flow diffusion bridge interpolant] [--steps 6000]

Data N(0, 1) (65,536 quantiles, so that the data set has that law), teacher the exact field of N(0.2, 1). The student is affine, so its law
is read off its weights; the critic is a network. Per-sample weights are off, as in the theory. Quadrature: the best critic, the Gaussian
student of least value.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from benchmarks.record import STUDIES, cell, save
from benchmarks.studies.claims.common import FAMILIES, end_of, model_of, realuid
from matchlib.algebra.model import Moments
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json
from matchlib.plugins.tasks import DistillationTask
from matchlib.runs.artifact import build_field
from matchlib.testing.world import AffineStudent
from matchlib.training.random import Streams
from matchlib.training.settings import TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer

REAL, WRONG = (0.0, 1.0), (0.2, 1.0)
NETWORK = {"name": "mlp", "width": 64, "depth": 2, "embedding": 32}


def optimum(family: str, alpha: float) -> dict[str, Any]:
    """Returns the mean of the best Gaussian student."""
    return {"mean": end_of(model_of(family), realuid(alpha, alpha, 0.5), REAL, WRONG)[0]}


def trained(family: str, alpha: float, steps: int, batch: int, seed: int = 0) -> dict[str, Any]:
    """Returns the mean and standard deviation of a student that the library's trainer made."""
    begin = time.perf_counter()
    torch.manual_seed(seed)
    quantiles = norm.ppf((np.arange(65_536) + 0.5) / 65_536)[:, None]
    data = Dataset.from_arrays("normal", quantiles, held_out=np.arange(0, 65_536, 16_384))
    model = model_of(family)
    critic = build_field(NETWORK, NetworkSpec((1,), None, False, None, 1), model, Moments())
    student = AffineStudent(torch.tensor([WRONG[0]]), 1.0, 0.0)
    teacher = Teacher(GaussianField(model, Mixture.normal(*WRONG)), model)
    distillation = Distillation(teacher, student.float(), critic, realuid(alpha, alpha, 0.5))
    algorithm = DistillationTask(
        distillation,
        Learner(student, 1e-3, (0.0, 0.999), 0.99),
        Learner(critic, 2e-3, (0.0, 0.999), 0.0),
        data,
        Streams(seed, torch.device("cpu")),
        batch_size=batch,
        critic_steps=3,
        steps=steps,
    )
    made = Trainer(algorithm, TrainerSettings(steps=steps, lr_decay=0.8)).fit()["student"]
    return {"mean": made.shift.item(), "std": abs(made.stretch.item()), "seconds": time.perf_counter() - begin}


def merged(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows of other families that the file of results has, and these."""
    path = STUDIES / "correction-gaussian.json"
    there = read_json(path)["rows"] if path.exists() else []
    return [row for row in there if row["family"] not in {row["family"] for row in rows}] + rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--families", nargs="+", default=["flow", "diffusion", "bridge", "interpolant"], choices=FAMILIES)
    given = parser.parse_args()
    rows = []
    for family in given.families:
        for alpha in (4.0, 2.0, 1.5):
            where = {"benchmark": "correction-gaussian", "family": family, "alpha": alpha}
            exact = cell({**where, "v": 1}, partial(optimum, family, alpha))
            found = cell(
                {**where, "steps": given.steps, "batch": given.batch, "ema": 0.99},
                partial(trained, family, alpha, given.steps, given.batch),
            )
            row = {"family": family, "alpha": alpha, "optimum": exact["mean"], **found, "ratio": found["mean"] / exact["mean"]}
            rows.append(row)
            print({key: round(x, 4) if isinstance(x, float) else x for key, x in row.items()}, flush=True)
        save("correction-gaussian", merged(rows), folder=STUDIES, bound=0.05)  # what there is so far, and other families of earlier calls


if __name__ == "__main__":
    main()
