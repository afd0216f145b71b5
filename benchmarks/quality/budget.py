"""What does one command make of MNIST in half an hour?

    python -m benchmarks.quality.budget --mnist MNIST.npz [--time 30m]

``matchlib distill --teacher flow --data MNIST --time 30m`` on the first 20,000 training images, nothing else set. The run is kept in the
benchmarks' cache, and read from there if it is finished; its picture is written for the documentation.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.quality.defaults import small_mnist
from benchmarks.record import CACHE, RESULTS, save
from matchlib.io import read_json, write_json
from matchlib.runs.settings import from_config

SHOWN = ("nfe", "frechet", "frechet_raw", "kid", "precision", "recall", "coverage", "class_shares", "classes_missing", "nearest_ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--time", default="30m")
    given = parser.parse_args()
    folder = CACHE / f"budget-mnist-{given.time}"
    taken = folder / "taken.json"
    if not taken.exists():
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.perf_counter()
        options = ["--teacher", "flow", "--data", str(small_mnist(given.mnist)), "--time", given.time, "--out", str(folder)]
        subprocess.run(
            [sys.executable, "-m", "matchlib_cli", "distill", *options],
            check=True,
            env={**os.environ, "XDG_CACHE_HOME": str(CACHE / "teachers")},
        )
        write_json(taken, {"seconds": time.perf_counter() - begin})
    report, settings = read_json(folder / "evaluation.json"), from_config(folder / "config.yaml")
    rows = [
        {"kind": kind, **{key: report[kind].get(key) for key in SHOWN}, "intervals": report[kind].get("intervals", {}).get("frechet")}
        for kind in ("student", "teacher", "held_out")
    ]
    shutil.copy(folder / "samples.png", RESULTS.parents[1] / "docs" / "images" / "mnist.png")
    chosen = {
        "network": settings.teacher.network,
        "teacher steps": settings.teacher.training.steps,
        "student steps": settings.trainer.steps,
    }
    save(
        f"budget-mnist-{given.time}",
        rows,
        seconds=read_json(taken)["seconds"],
        chosen=chosen,
        samples=report["samples"],
        draws=report["draws"],
    )


if __name__ == "__main__":
    main()
