"""Draws the first picture of the README: the data, the teacher's paths of its many evaluations, the student's single step.

    python docs/pictures/tutorials.py plane FOLDER
    python docs/pictures/plane.py FOLDER/runs/student

RUN is the student of the tutorial on the plane.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch

import matchlib
from matchlib.algebra.records import Condition
from matchlib.fields.sampler import SampledField

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).parents[1] / "images" / "plane.png"
PATHS, POINTS, FAR = 36, 1500, 1.9
INK, DATA, SOURCE, LINE = "#222222", "#3a5a98", "#9a9a9a", "#d08a3c"


def paths_of(teacher: matchlib.Pipeline, source: torch.Tensor) -> np.ndarray:
    """Returns the states of a teacher on its way, shape ``(times, n, 2)``, in data units."""
    of = SampledField(teacher.module, teacher.config.model, teacher.config.moments)
    with torch.no_grad():
        states = [state for _, state in teacher.sampler.trajectory(of, source, None, generator=torch.Generator().manual_seed(0))]
    return teacher.denormalize(torch.stack(states)).numpy()


def step_of(student: matchlib.Pipeline, source: torch.Tensor) -> np.ndarray:
    """Returns where a student takes sources, shape ``(n, 2)``, in data units."""
    with torch.no_grad():
        data = student.module(source, Condition(), generator=torch.Generator().manual_seed(0))
    return student.denormalize(data).numpy()


def draw(run: Path, out: Path) -> None:
    """Writes the picture of a run."""
    teacher, student = matchlib.load(run, of="teacher"), matchlib.load(run)
    source = torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(1))
    source = source[source.norm(dim=1).clamp(min=FAR).argsort(stable=True)]  # those that are shown lie inside the picture
    start = student.denormalize(source).numpy()
    paths, end = paths_of(teacher, source), step_of(student, source)
    real = matchlib.datasets["moons"]().denormalize(matchlib.datasets["moons"]().held_out.data).numpy()[:POINTS]
    plt.rcParams.update({"font.family": "serif", "font.size": 9, "text.color": INK})
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.45), layout="constrained", sharex=True, sharey=True)
    dots = {"s": 3, "linewidths": 0, "alpha": 0.55}
    chosen = slice(0, PATHS)
    axes[0].scatter(*real.T, color=DATA, **dots)
    axes[0].set_title("data", size=10)
    for panel in axes[1:]:
        panel.scatter(*start[chosen].T, s=9, color=SOURCE, linewidths=0, zorder=3)
    axes[1].plot(paths[:, chosen, 0], paths[:, chosen, 1], color=LINE, linewidth=0.6, alpha=0.8)
    axes[1].scatter(*paths[-1].T, color=DATA, **dots)
    axes[1].set_title("teacher: 50 evaluations a sample", size=10)
    move = end[chosen] - start[chosen]
    axes[2].quiver(*start[chosen].T, *move.T, angles="xy", scale_units="xy", scale=1, width=0.0022, color=LINE, alpha=0.9, headwidth=5)
    axes[2].scatter(*end.T, color=DATA, **dots)
    axes[2].set_title("student: 1 evaluation a sample", size=10)
    for panel in axes:
        panel.set(xlim=(-1.9, 3.0), ylim=(-1.55, 1.85), xticks=[], yticks=[], aspect="equal")
        for side in panel.spines.values():
            side.set(linewidth=0.5, color="#bbbbbb")
    figure.savefig(out, dpi=200, facecolor="white")


def main() -> None:
    draw(Path(sys.argv[1]), OUT)


if __name__ == "__main__":
    main()
