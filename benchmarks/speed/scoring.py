"""How long does scoring take, and how much memory, and how do they grow with the number of data and their size?

Samples are data with a little noise, so that nothing is generated: one draw of every metric for a student, a teacher and held-out data, the
features learned anew and then from the cache. A process each, so that peaks are its own.

    python benchmarks/speed/scoring.py [--mnist MNIST.npz] [--grow] [--before CHECKOUT]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from matchlib.data.dataset import Dataset

RESULT = Path(__file__).parents[1] / "results" / "scoring.json"
LONGEST = 600  # seconds of a cell
SHAPES = {64: (1, 8, 8), 784: (1, 28, 28), 3072: (3, 32, 32)}


def images(size: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns smooth random images of ten classes."""
    rng, shape = np.random.default_rng(0), SHAPES[size]
    y = np.arange(n) % 10
    coarse = rng.standard_normal((10, shape[0], 4, 4))[y] + 0.5 * rng.standard_normal((n, shape[0], 4, 4))
    factor = shape[1] // 4
    return np.repeat(np.repeat(coarse, factor, 2), factor, 3).astype(np.float32), y


def measured(data: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns seconds and bytes of the scoring of one draw."""
    from matchlib.evaluation.score import applying, reference_of
    from matchlib.registry import metrics

    dataset = Dataset.from_arrays("given", data, labels=labels)
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, {}
    begin = time.perf_counter()
    reference_of(dataset)
    seconds["learning features"] = time.perf_counter() - begin
    begin = time.perf_counter()
    reference = reference_of(dataset)
    size = reference.size
    generator = torch.Generator().manual_seed(0)
    held_out = dataset.held_out.data[:size]
    for _kind, noise in (("held_out", 0.0), ("student", 0.1), ("teacher", 0.05)):
        samples = reference.points(held_out + noise * torch.randn(held_out.shape, generator=generator))
        for name in applying(reference):
            start = time.perf_counter()
            metrics[name](reference, samples)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    whole = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    row = {"train": len(dataset.train.data), "samples": size, "numbers": dataset.train.data[0].numel(), "scoring s": round(whole, 2)}
    return row | {"peak MiB": peak // 1024, "before MiB": before // 1024, "seconds": {k: round(v, 2) for k, v in seconds.items()}}


def measured_before(data: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The same by the code of a checkout of dc314e2, from before scores were computed in chunks."""
    from matchlib.evaluation.score import reference_of, scores

    dataset = Dataset.from_arrays("given", data, labels=labels)
    reference, _ = reference_of(dataset)
    begin, generator, held_out = time.perf_counter(), torch.Generator().manual_seed(0), dataset.held_out.data
    for noise in (0.0, 0.1, 0.05):
        scores(reference, held_out + noise * torch.randn(held_out.shape, generator=generator), None)
    whole, peak = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    numbers = dataset.train.data[0].numel()
    return {
        "train": len(dataset.train.data),
        "samples": len(held_out),
        "numbers": numbers,
        "scoring s": round(whole, 2),
        "peak MiB": peak // 1024,
    }


def plot(rows: dict[str, Any], path: Path) -> None:
    """Draws seconds over the number of data, of each size of data, before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for before in ("before ", ""):
        for color, size in enumerate(SHAPES):
            found = {int(name.split(":")[1]): row["scoring s"] for name, row in rows.items() if name.startswith(f"{before}{size}:")}
            points = sorted((n, seconds) for n, seconds in found.items() if isinstance(seconds, float))
            if points:
                label = f"{size} numbers a sample{', commit dc314e2' if before else ''}"
                axes.plot(*zip(*points, strict=True), "o--" if before else "o-", color=f"C{color}", label=label)
    axes.set(xscale="log", yscale="log", xlabel="data, of which a fifth is held out", ylabel="seconds for all metrics")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--grow", action="store_true", help="measure at 1,000 to 50,000 data of 64 to 3,072 numbers")
    parser.add_argument("--before", type=Path, help="a checkout of dc314e2, measured instead of this one")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SHAPES))
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.cell:
        name, _, n = given.cell.partition(":")
        measure = measured_before if given.before else measured
        if name == "mnist":
            file = np.load(given.mnist)
            print(json.dumps(measure(file["train_x"][:, None], file["train_y"].astype(int))))
        else:
            print(json.dumps(measure(*images(int(name), int(n)))))
        return
    cells = ["mnist:0"] if given.mnist else []
    cells += [f"{size}:{n}" for size in given.sizes for n in (1000, 4000, 16_000, 50_000)] if given.grow else []
    rows = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for cell in cells:
        with tempfile.TemporaryDirectory() as cache:
            command = [sys.executable, __file__, "--cell", cell, *(["--mnist", str(given.mnist)] if given.mnist else [])]
            command += ["--before", str(given.before)] if given.before else []
            place = {"XDG_CACHE_HOME": cache, **({"PYTHONPATH": str(given.before)} if given.before else {})}
            name = f"before {cell}" if given.before else cell
            try:
                done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LONGEST, env={**os.environ, **place})
                rows[name] = json.loads(done.stdout.splitlines()[-1])
            except subprocess.TimeoutExpired:
                rows[name] = {"scoring s": f"more than {LONGEST}"}
        print(name, rows[name], flush=True)
        text = {"command": "python benchmarks/speed/scoring.py --mnist MNIST.npz --grow", "threads": torch.get_num_threads(), "rows": rows}
        RESULT.write_text(json.dumps(text, indent=1) + "\n")
    plot(rows, RESULT.with_suffix(".svg"))


if __name__ == "__main__":
    main()
