"""Restoration: pairs of degraded and clean images, bridge teacher of many steps against a student of one; on MNIST in 15 minutes.

python -m benchmarks.quality.restoration [--mnist MNIST.npz] [--threads 2]

MNIST.npz holds train_x (60000, 28, 28), uint8; the first images are averaged over blocks of 4 x 4 (7 x 7 numbers), shown at full size, and
a little noise is added. Without it only the digits are run.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import CACHE, RESULTS, cell, distilled, save, save_arrays

SHOWN = ("nfe", "frechet", "frechet_raw", "psnr", "rmse", "consistency", "spread", "seconds")
MNIST = ["--time", "15m"]  # and nothing else


def pairs(mnist: Path, count: int, noise: float) -> Path:
    """Writes the degraded pairs as an npz file, unless it is there."""
    path = CACHE / f"mnist-restore-{count}-{noise:g}.npz"
    if path.exists():
        return path
    clean = np.load(mnist)["train_x"][:count].astype(np.float32)[:, None]
    blocks = clean.reshape(count, 1, 7, 4, 7, 4)
    pooled = np.broadcast_to(blocks.mean((3, 5), keepdims=True), blocks.shape).reshape(clean.shape)
    save_arrays(path, data=clean, source=pooled + noise * np.random.default_rng(0).standard_normal(clean.shape).astype(np.float32))
    return path


def run(name: str, options: list[str], threads: int) -> dict[str, Any]:
    """Returns the scores of a cell, and keeps its picture."""
    folder = CACHE / f"restoration-{name}"
    found = distilled(["--teacher", "bridge", *options], folder, SHOWN, OMP_NUM_THREADS=str(threads))
    shutil.copy(folder / "samples.png", RESULTS.parents[1] / "docs" / "images" / f"restoration-{name}.png")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--noise", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    tasks = {"digits": ["--data", "digits-restore"]}
    if given.mnist is not None:
        tasks["mnist"] = ["--data", str(pairs(given.mnist, given.images, given.noise)), *MNIST]
    rows = []
    for name, options in tasks.items():
        key = {"benchmark": "restoration", "options": options, "images": given.images, "noise": given.noise}
        row = {"data": name} | cell(key, lambda name=name, options=options: run(name, options, given.threads))
        student, teacher = row["student"], row["teacher"]
        row["decibels_lost"] = teacher["psnr"] - student["psnr"]
        row["frechet_ratio"] = student["frechet"] / teacher["frechet"]
        row["fewer_evaluations"] = teacher["nfe"] / student["nfe"]
        rows.append(row)
        for kind in ("student", "teacher"):
            print(name, kind, {k: round(x, 3) for k, x in row[kind].items()}, flush=True)
    save("restoration", rows, bounds={"decibels_lost": 0.5, "frechet_ratio": 1.2, "fewer_evaluations": 50})


if __name__ == "__main__":
    main()
