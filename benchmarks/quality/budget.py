"""What does one command make of MNIST, or of CIFAR-10, in half an hour?

    python -m benchmarks.quality.budget --mnist MNIST.npz [--time 30m]
    python -m benchmarks.quality.budget --cifar CIFAR10.npz [--time 30m]

``matchlib distill --teacher flow --data FILE --time 30m`` on the first 20,000 training images, nothing else set; with ``--time none``
not even the time. The run is kept in the
benchmarks' cache, and read from there if it is finished; the picture of MNIST is written for the documentation.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.quality.defaults import small_mnist
from benchmarks.record import CACHE, RESULTS, save, save_arrays
from matchlib.io import read_json, write_json
from matchlib.runs.settings import from_config

SHOWN = ("nfe", "frechet", "frechet_raw", "kid", "precision", "recall", "coverage", "class_shares", "classes_missing", "nearest_ratio")


def small_cifar(path: Path) -> Path:
    """Writes the first 20,000 training images as a data set of its own."""
    from PIL import Image

    target = CACHE / "cifar-20000.npz"
    if not target.exists():
        file = np.load(path)
        jpeg, offsets = file["jpeg"], file["offsets"][:20_001]
        pairs = itertools.pairwise(offsets)
        images = [np.asarray(Image.open(io.BytesIO(jpeg[begin:end].tobytes())).convert("RGB")) for begin, end in pairs]
        save_arrays(target, data=np.stack(images).transpose(0, 3, 1, 2), labels=file["labels"][:20_000])
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--mnist", type=Path)
    which.add_argument("--cifar", type=Path, help="npz with the files of JPEG images one after the other, their offsets, and labels")
    parser.add_argument("--time", default="30m")
    given = parser.parse_args()
    name, data = ("mnist", small_mnist(given.mnist)) if given.cifar is None else ("cifar", small_cifar(given.cifar))
    folder = CACHE / f"budget-{name}-{given.time}"
    taken = folder / "taken.json"
    if not taken.exists():
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.perf_counter()
        options = ["--teacher", "flow", "--data", str(data), "--out", str(folder)]
        options += [] if given.time == "none" else ["--time", given.time]
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
    if (name, given.time) == ("mnist", "30m"):
        shutil.copy(folder / "samples.png", RESULTS.parents[1] / "docs" / "images" / "mnist.png")
    chosen = {
        "network": settings.teacher.network,
        "teacher steps": settings.teacher.training.steps,
        "student steps": settings.trainer.steps,
    }
    save(
        f"budget-{name}-{given.time}",
        rows,
        seconds=read_json(taken)["seconds"],
        chosen=chosen,
        samples=report["samples"],
        draws=report["draws"],
    )


if __name__ == "__main__":
    main()
