"""Is a run ever lost? It is killed (SIGKILL) again and again at random moments, each time resumed, until it ends; then another.

    python -m benchmarks.robustness.kills [--kills 50] [--processes 1]

Every run's teacher and student are compared with those of one that was left alone, bit for bit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from benchmarks.record import CACHE, save

PLACE = CACHE / "kills"
SETTINGS = [
    "data.name=moons",
    "teacher.network={name: mlp, width: 8, depth: 1}",
    "teacher.training={steps: 400, batch_size: 16}",
    "trainer={steps: 400, batch_size: 16, log_every: 10, checkpoint_every: 7, monitor_every: 20, extra_ema_decays: [0.9]}",
    "evaluation={draws: 1, metrics: [frechet-raw]}",
]


def command(run: Path, processes: int, *, resume: bool) -> list[str]:
    """Returns how a run is begun or gone on with."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    asked = ["resume", str(run)] if resume else ["distill", "--out", str(run), *(x for piece in SETTINGS for x in ("--set", piece))]
    return [sys.executable, *torchrun, "-m", "matchlib_cli", *asked]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Returns all weights of a finished run."""
    files = sorted(run.glob("*/*.safetensors"))
    return {
        f"{file.parent.name}/{file.name}/{key}": x
        for file in files
        if file.parent.name in ("teacher", "student")
        for key, x in load_file(file).items()
    }


def alone(processes: int) -> tuple[dict[str, torch.Tensor], float]:
    """Returns the weights of a run that nobody kills, and its seconds."""
    run, begin = PLACE / "alone", time.perf_counter()
    subprocess.run(command(run, processes, resume=False), check=True, capture_output=True, env=environment("alone"))
    return weights(run), time.perf_counter() - begin


def environment(name: str) -> dict[str, str]:
    """Returns an environment with a cache of its own, so that every run trains its teacher."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(PLACE / f"cache-{name}")}


def killed(index: int, processes: int, seconds: float, rng: np.random.Generator) -> tuple[int, dict[str, torch.Tensor], list[str]]:
    """Returns how often a run was killed before it ended, its weights, and what went wrong."""
    run, kills, wrong = PLACE / f"run-{index}", 0, []
    while True:
        begun = (run / "config.yaml").exists()
        process = subprocess.Popen(
            command(run, processes, resume=begun),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment(str(index)),
            start_new_session=True,
            text=True,
        )
        try:
            _, error = process.communicate(timeout=rng.uniform(0.3, 1.0) * seconds if kills < 6 else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            kills += 1
            continue
        if process.returncode:
            wrong.append(error.strip().splitlines()[-1] if error.strip() else f"exit {process.returncode}")
        return kills, weights(run) if not process.returncode else {}, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    rng, rows, done = np.random.default_rng(0), [], 0
    expected, seconds = alone(given.processes)
    while done < given.kills:
        kills, found, wrong = killed(len(rows), given.processes, seconds, rng)
        same = found.keys() == expected.keys() and all(torch.equal(found[key], x) for key, x in expected.items())
        done += kills
        row: dict[str, Any] = {"run": len(rows), "processes": given.processes, "kills": kills, "same weights": same, "wrong": wrong}
        rows.append(row)
        print(row, f"{done} of {given.kills}", flush=True)
        shutil.rmtree(PLACE / f"run-{len(rows) - 1}", ignore_errors=True)
    save("kills" if given.processes == 1 else f"kills-{given.processes}", rows, kills=done)


if __name__ == "__main__":
    main()
