"""At how much noise should student and teacher be compared?

    python -m benchmarks.quality.times --mnist MNIST.npz --cifar CIFAR10.npz

One teacher of MNIST without labels and one of CIFAR-10 with labels, MLPs 768 wide; students that differ in ``trainer.times.log_sigma``
alone. The plot marks what ``matchlib.distillation.defaults.comparison_times`` says of the data. Cells are cached.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.quality.budget import small_cifar
from benchmarks.quality.defaults import small_mnist
from benchmarks.record import CACHE, RESULTS, cell, defaults, distilled, save
from matchlib.data.readers import load_dataset
from matchlib.distillation.defaults import comparison_times, principal_variances

SHOWN = ("nfe", "frechet", "frechet_raw", "class_shares", "classes_missing")
NETWORK = 'teacher.network={"name":"mlp","width":768,"depth":4}'
TEACHERS = {
    "mnist": ["data.labels=false", "teacher.training.steps=2000"],
    "cifar": ["teacher.training.steps=2201", "teacher.training.batch_size=128"],
}
STUDENTS = {
    "mnist": ["data.labels=false", "trainer.steps=1200", "evaluation.samples=4000"],
    "cifar": ["trainer.steps=972", "trainer.batch_size=64", "evaluation.samples=2000"],
}
METRICS = ["evaluation.draws=1", "evaluation.metrics=[frechet, frechet-raw, class-shares, classes-missing]"]
TIMES = {
    "mnist": [(1.06, 1.0), (1.32, 1.3), (1.47, 1.0), (1.69, 1.0)],
    "cifar": [(1.2, 1.4), (1.7, 1.2), (2.2, 1.0), (2.2, 1.2), (2.2, 1.5), (2.45, 1.5), (2.7, 1.2), (3.05, 1.0)],
}


def teacher_of(name: str, data: Path) -> Path:
    """Returns the folder of a teacher, which is trained if it is not there."""
    digest = hashlib.sha256(str([NETWORK, *TEACHERS[name]]).encode()).hexdigest()[:8]
    folder = CACHE / f"times-teacher-{name}-{digest}"
    if not (folder / "evaluation.json").exists():
        settings = [part for setting in (NETWORK, *TEACHERS[name], *METRICS) for part in ("--set", setting)]
        command = [sys.executable, "-m", "matchlib_cli", "train", "--family", "flow", "--data", str(data), *settings]
        environment = {**os.environ, "XDG_CACHE_HOME": str(CACHE / "teachers")}
        subprocess.run([*command, "--out", str(folder), "--resume"], check=True, env=environment, stdout=subprocess.DEVNULL)
    return folder / "teacher"


def options(name: str, teacher: Path, data: Path, times: tuple[float, float]) -> list[str]:
    """Returns the options of ``matchlib distill`` for a cell."""
    settings = [*METRICS, *STUDENTS[name], f"trainer.times.log_sigma={list(times)}", "teacher.examine=false"]
    return ["--teacher", str(teacher), "--data", str(data), *(part for setting in settings for part in ("--set", setting))]


def key_of(name: str, found: list[str]) -> dict[str, Any]:
    """Returns what a cell depends on."""
    return {
        "benchmark": "times",
        "name": name,
        "teacher": [NETWORK, *TEACHERS[name]],
        "options": found[4:],
        "defaults": defaults("flow", rules=False),
    }


def draw(rows: list[dict[str, Any]], rules: dict[str, tuple[float, float]], path: Path) -> None:
    """Draws ratios of distances against the mean of log noise over signal."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    panels = figure.subplots(1, len(rules), squeeze=False)[0]
    for axes, (name, (mean, std)) in zip(panels, rules.items(), strict=True):
        for what, marker in (("ratio", "o"), ("ratio_raw", "x")):
            found = [(row["log_sigma"][0], row[what], row["log_sigma"][1]) for row in rows if row["data"] == name]
            axes.scatter(
                [x for x, _, _ in found], [y for _, y, _ in found], marker=marker, label={"ratio": "features"}.get(what, "raw values")
            )
            if what == "ratio":
                for x, y, s in found:
                    axes.annotate(f"{s:g}", (x, y), textcoords="offset points", xytext=(4, 4), fontsize=8)
        axes.axvline(mean, color="grey", linestyle=":", label=f"default ({mean:.2f}, {std:.2f})")
        axes.axhline(1.0, color="grey", linewidth=0.8, zorder=1)
        axes.set_yscale("log")
        axes.set_title({"mnist": "MNIST, no labels", "cifar": "CIFAR-10"}[name])
        axes.set_xlabel("mean of log noise over signal")
        axes.set_ylabel("Frechet distance, student / teacher")
        axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--cifar", type=Path)
    given = parser.parse_args()
    places = {"mnist": given.mnist and small_mnist(given.mnist), "cifar": given.cifar and small_cifar(given.cifar)}
    rows: list[dict[str, Any]] = []
    rules: dict[str, tuple[float, float]] = {}
    for name, place in places.items():
        if place is None:
            continue
        rule = comparison_times(principal_variances(load_dataset(place).train.data)).log_sigma
        assert rule is not None
        rules[name] = rule
        teacher = teacher_of(name, place)
        for times in TIMES[name]:
            found = options(name, teacher, place, times)
            folder = CACHE / f"times-{name}-{times[0]:g}-{times[1]:g}"
            row = {"data": name, "log_sigma": times, **cell(key_of(name, found), lambda o=found, f=folder: distilled(o, f, SHOWN))}
            row["ratio"] = row["student"]["frechet"] / row["teacher"]["frechet"]
            row["ratio_raw"] = row["student"]["frechet_raw"] / row["teacher"]["frechet_raw"]
            rows.append(row)
            print(name, times, f"ratio {row['ratio']:.2f} ({row['ratio_raw']:.2f}) {row['seconds_in_all']:.0f} s", flush=True)
    if len(rules) == len(places):
        save("times", rows, rules=rules)
        draw(rows, rules, RESULTS.parents[1] / "docs" / "images" / "times.svg")


if __name__ == "__main__":
    main()
