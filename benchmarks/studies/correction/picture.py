"""Draws docs/images/correction.png: data, weak teacher, UID student and corrected student of MNIST, from the cells of mnist.py.

python -m benchmarks.studies.correction.picture --mnist MNIST.npz [--kinds "stopped early" "wrong class balance"] [--seed 0]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np

import matchlib
from benchmarks.studies.correction.common import samples_of, settings_of, teacher
from benchmarks.studies.correction.methods import UID
from benchmarks.studies.correction.tasks import Task, images, mnist

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).resolve().parents[3] / "docs" / "research" / "images" / "correction.png"
SIDE = 6


def grid(x: np.ndarray) -> np.ndarray:
    """Returns the first images in a square."""
    shown = images(x)[: SIDE**2]
    side = shown.shape[1]
    return shown.reshape(SIDE, SIDE, side, side).transpose(0, 2, 1, 3).reshape(SIDE * side, SIDE * side)


def panels(task: Task, kind: str, seed: int) -> dict[str, np.ndarray]:
    """Returns what is drawn of one teacher, by title."""
    data = task.load()
    weak = matchlib.load(teacher(task, "flow", kind, seed)[0], of="teacher")
    kept = [samples_of(task, "flow", kind, seed, settings_of(task, kind, method)) for method in (UID, {"recipe": "correct"})]
    uid, corrected = (np.load(path)["data"] for path in kept)
    return {
        "data": data.denormalize(data.held_out.data[: SIDE**2]).numpy(),
        f"teacher: {kind} ({weak.sampler.steps * 2} evaluations)": weak.sample(SIDE**2, seed=1).numpy(),
        "UID, one evaluation": uid,
        "recipe correct, one evaluation": corrected,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["stopped early", "wrong class balance"])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    figure, axes = plt.subplots(len(given.kinds), 4, figsize=(12, 3.2 * len(given.kinds)), squeeze=False)
    for row, kind in zip(axes, given.kinds, strict=True):
        for axis, (title, x) in zip(row, panels(mnist(given.mnist), kind, given.seed).items(), strict=True):
            axis.imshow(grid(x), cmap="gray", vmin=0, vmax=255)
            axis.set_title(title, fontsize=9)
            axis.axis("off")
    figure.tight_layout()
    figure.savefig(OUT, dpi=110)
    print(f"wrote {OUT}")


if __name__ == "__main__":
    main()
