"""Which network makes the best teacher in a given time, and what width does to the best step size?

    python -m benchmarks.quality.networks --mnist MNIST.npz [--seconds 600] [--only mlp-768 ...]

Flow matching with labels on MNIST. Every network is trained for the same time on one thread, its number of steps taken from a few timed
steps, at the default step size. 1,000 samples of 20 evaluations are compared with the training split. Cells are cached.
"""

from __future__ import annotations

import argparse
import shutil
import time
from typing import Any

import numpy as np
import torch

from benchmarks.record import CACHE, cell, save
from matchlib.data.dataset import Dataset
from matchlib.distillation.defaults import TEACHER_LR_SCALE, learning_rate
from matchlib.evaluation.score import reference_of, scores
from matchlib.registry import samplers
from matchlib.runs.budget import seconds_per_step
from matchlib.runs.build import build
from matchlib.runs.pipeline import Pipeline
from matchlib.runs.run import Run
from matchlib.runs.settings import resolve

NETWORKS: dict[str, dict[str, Any]] = {
    "mlp-384": {"name": "mlp", "width": 384, "depth": 4},
    "mlp-768": {"name": "mlp", "width": 768, "depth": 4},
    "unet-32": {"name": "unet", "channels": 32, "multipliers": [1, 2]},
    "unet-64-patch-2": {"name": "unet", "channels": 64, "multipliers": [1, 2], "patch": 2},
    "dit-192-patch-4": {"name": "dit", "width": 192, "depth": 6, "heads": 3, "patch": 4},
    "dit-128-patch-4": {"name": "dit", "width": 128, "depth": 6, "heads": 2, "patch": 4},
}
SAMPLES = 1000


def mnist(path: str) -> Dataset:
    """The first 20,000 training images, of which 4,000 are held out."""
    file = np.load(path)
    return Dataset.from_arrays("mnist", file["train_x"][:20_000, None], labels=file["train_y"][:20_000])


def trained(dataset: Dataset, network: dict[str, Any], seconds: float, batch_size: int) -> dict[str, Any]:
    """Trains a teacher for so many seconds and scores it."""
    folder = CACHE / "networks" / "-".join(str(x) for x in network.values()).replace(" ", "")
    settings = {"teacher.network": network, "teacher.training.batch_size": batch_size, "data.name": "python:mnist"}
    step = seconds_per_step(resolve("train", settings=settings), build(resolve("train", settings=settings), data=dataset), "teacher")
    steps = max(20, int(seconds / step))
    chosen = resolve("train", settings={**settings, "teacher.training.steps": steps, "teacher.training.monitor_every": 0})
    parts = build(chosen, data=dataset)
    field = parts.teacher.field
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    Run(chosen, parts, folder).train("teacher")
    taken = time.perf_counter() - begin
    shutil.rmtree(folder, ignore_errors=True)
    pipeline = Pipeline(parts.config, parts.teacher, "cpu", samplers["ode"](method="heun2", steps=10), data=dataset)
    begin = time.perf_counter()
    samples = pipeline.sample_batch(SAMPLES, seed=0).data
    sampling = time.perf_counter() - begin
    reference = reference_of(dataset, samples=SAMPLES, subset=2000, extractor="own", device=torch.device("cpu"))
    names = ["frechet", "frechet-raw", "class-shares"]
    return {
        "weights": sum(x.numel() for x in field.parameters()),
        "lr": TEACHER_LR_SCALE * learning_rate(field),
        "steps": steps,
        "seconds": taken,
        "seconds_a_sample": sampling / SAMPLES,
        **scores(reference, samples, names),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--only", nargs="+", default=list(NETWORKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset, rows = mnist(given.mnist), []
    for name in given.only:
        key = {"benchmark": "networks", "version": 2, "network": NETWORKS[name], "seconds": given.seconds, "batch": given.batch}
        row = {"network": name, **cell(key, lambda n=name: trained(dataset, NETWORKS[n], given.seconds, given.batch))}
        rows.append(row)
        print(row, flush=True)
    if given.only == list(NETWORKS):
        save("networks", rows, seconds=given.seconds, batch_size=given.batch, samples=SAMPLES)


if __name__ == "__main__":
    main()
