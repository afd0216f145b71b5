"""Does a long run stay as it was? 100,000 tiny steps with every callback, and 500 runs in one process: memory, files and time of a step.

    python -m benchmarks.robustness.soak [--steps 100000] [--runs 500]

A row is an eighth of the work. Memory is what the process holds (resident), files are all of the run's folder. The page is written
twenty times as often as in other runs, so that whatever the first pages need is there in the first quarter, after which growth is counted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matchlib
from benchmarks.record import CACHE, RESULTS, save
from matchlib.training.callbacks import Progress, Reporting

PLACE = CACHE / "soak"
TINY = {
    "data.name": "moons",
    "data.samples": 400,
    "teacher.network": {"name": "mlp", "width": 16, "depth": 1},
    "teacher.training.steps": 50,
    "trainer.batch_size": 16,
    "evaluation.draws": 1,
    "evaluation.metrics": ("frechet-raw",),
}
WATCHED = {
    "trainer.log_every": 20,
    "trainer.monitor_every": 500,
    "trainer.checkpoint_every": 500,
    "trainer.extra_ema_decays": (0.9,),
    "trainer.trackers": ("tensorboard",),
    "evaluation.every": 5000,
}
PARTS = 8


def resident() -> int:
    """Returns the bytes that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def size(folder: Path) -> int:
    """Returns the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def one_run(steps: int) -> Iterator[dict[str, Any]]:
    """Yields a row for each eighth of a long run."""
    Reporting.__init__.__defaults__ = (0.2, 0.25)  # share of the time, and seconds that the first page may take
    folder, rows, state = PLACE / "run", list[dict[str, Any]](), {"at": 0, "since": 0.0}

    def on_progress(row: Progress) -> None:
        if row.phase != "student" or row.step < state["at"]:
            return
        now, before = time.perf_counter(), state["since"]
        each = 1000 * (now - before) / (steps / PARTS) if before else None
        log = (folder / "metrics.jsonl").stat().st_size
        rows.append(
            {
                "what": "a run",
                "step": row.step,
                "MiB": resident() / 2**20,
                "ms a step": each,
                "files MiB": size(folder) / 2**20,
                "log MiB": log / 2**20,
            }
        )
        print(rows[-1], flush=True)
        state["at"], state["since"] = row.step + steps / PARTS, time.perf_counter()

    matchlib.distill(out=folder, steps=steps, settings={**TINY, **WATCHED}, on_progress=on_progress)
    yield from rows


def many_runs(runs: int) -> Iterator[dict[str, Any]]:
    """Yields a row for each eighth of many short runs in this process."""
    begin = time.perf_counter()
    for i in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            matchlib.distill(out=Path(folder) / "run", steps=20, settings=TINY, on_progress=lambda row: None)
        if i % (runs // PARTS) == 0:
            now = time.perf_counter()
            open_files = len(list(Path("/proc/self/fd").iterdir()))
            row = {"what": "runs", "run": i, "MiB": resident() / 2**20, "open files": open_files, "seconds": now - begin}
            print(row, flush=True)
            yield row
            begin = now


def plot(rows: list[dict[str, Any]]) -> None:
    """Writes memory, files and time of a step against the steps of the long run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.3), layout="constrained")
    for axes, key in zip(figure.subplots(1, 3), ("MiB", "files MiB", "ms a step"), strict=True):
        axes.plot([row["step"] for row in rows], [row[key] for row in rows], "o-")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.set_title({"MiB": "memory, MiB", "files MiB": "files, MiB", "ms a step": "a step, ms"}[key], fontsize=10)
    figure.savefig(RESULTS / "soak.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=500)
    given = parser.parse_args()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    os.environ["XDG_CACHE_HOME"] = str(PLACE / "cache")
    rows = [*one_run(given.steps), *many_runs(given.runs)]
    last = [row for row in rows if row["what"] == "a run"][1:]
    plot(last)
    warm = [row["MiB"] for row in last if row["step"] > given.steps / 4]
    save("soak", rows, growth=warm[-1] / warm[0] - 1)


if __name__ == "__main__":
    main()
