"""Good teachers of MNIST at 28x28, one of each family, trained once on a CPU.

    python -m benchmarks.quality.teachers --mnist MNIST.npz [--only flow ...]

Each is ``matchlib train`` on the first 20,000 training images with an MLP of width 384 and the default step size; a killed call goes on
where it was. The teacher of the VP family is diffusers' own (``benchmarks/quality/mnist_diffusers.py``). Teachers stay in the benchmarks'
cache, where ``benchmarks/quality/students.py`` finds them. ``--only`` leaves the results of the others as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.quality.defaults import small_mnist
from benchmarks.quality.restoration import pairs
from benchmarks.record import CACHE, RESULTS, merged, save
from matchlib.evaluation.pictures import draw_samples
from matchlib.io import read_json, write_json

PLACE = CACHE / "teachers-mnist"
SHOWN = ("nfe", "frechet", "frechet_raw", "class_shares", "classes_missing", "coverage", "nearest_ratio", "psnr")
BOUNDS = {"over held-out": 2.5, "class_shares": 0.05, "classes_missing": 0}  # of Frechet distances of features, n = 2,000
STEPS = 12_000
COMMON = [
    'teacher.network={"name":"mlp","width":384,"depth":4}',
    f"teacher.training.steps={STEPS}",
    "evaluation.samples=2000",
    "evaluation.draws=2",
]


def teachers(mnist: Path) -> dict[str, list[str]]:
    """Returns the options of each teacher's training by name."""
    images, restored = str(small_mnist(mnist)), str(pairs(mnist, 20_000, 10.0))
    return {
        "flow": ["--family", "flow", "--data", images],
        "flow, no labels": ["--family", "flow", "--data", images, "--set", "data.labels=false"],
        "EDM": ["--family", "diffusion", "--data", images],
        "EDM, no labels": ["--family", "diffusion", "--data", images, "--set", "data.labels=false"],
        "interpolant": ["--family", "interpolant", "--data", images],
        "interpolant, no labels": ["--family", "interpolant", "--data", images, "--set", "data.labels=false"],
        "bridge, pairs": ["--family", "bridge", "--data", restored],
    }


def folder_of(name: str) -> Path:
    """Returns the run of a teacher."""
    return PLACE / "-".join(name.replace(",", "").split())


def trained(name: str, options: list[str]) -> dict[str, Any]:
    """Trains a teacher, or goes on with it, and returns its scores."""
    folder = folder_of(name)
    taken, done = folder / "taken.json", {"options": options[:2] + options[4:] + COMMON}
    if not taken.exists() or read_json(taken).get("options") != done["options"]:
        begin = time.perf_counter()
        settings = [part for setting in COMMON for part in ("--set", setting)]
        command = [sys.executable, "-m", "matchlib_cli", "train", *options, *settings, "--resume", "--out", str(folder)]
        subprocess.run(command, check=True, env={**os.environ, "XDG_CACHE_HOME": str(CACHE / "teachers")}, stdout=subprocess.DEVNULL)
        write_json(taken, {**done, "seconds of the last call": time.perf_counter() - begin})
    report = read_json(folder / "evaluation.json")
    return {kind: {key: report[kind][key] for key in SHOWN if key in report[kind]} for kind in ("teacher", "held_out")} | read_json(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--only", nargs="+")
    given = parser.parse_args()
    rows = []
    for name, options in teachers(given.mnist).items():
        if given.only and name not in given.only:
            continue
        row = {"family": name, **trained(name, options)}
        row["over held-out"] = row["teacher"]["frechet"] / row["held_out"]["frechet"]
        rows.append(row)
        print(name, {key: round(x, 3) for key, x in row["teacher"].items()}, f"over held-out {row['over held-out']:.2f}", flush=True)
    save("teachers", merged("teachers", rows, "family"), steps=STEPS, bounds=BOUNDS)
    if not given.only:
        picture(list(teachers(given.mnist)))


def picture(names: list[str]) -> None:
    """Draws held-out digits and samples of each teacher side by side."""
    shown = {name: load_file(folder_of(name) / "report.safetensors") for name in names}
    panels = {"held-out data": shown[names[0]]["data"]} | {name: arrays["teacher"] for name, arrays in shown.items()}
    images = RESULTS.parents[1] / "docs" / "images"
    draw_samples(images / "mnist-teachers.png", {name: x[:36] for name, x in panels.items()}, (0.0, 255.0))


if __name__ == "__main__":
    main()
