"""Is a run ever lost? It is sent signals at random moments, each time resumed, until it ends; then another.

    python -m benchmarks.robustness.kills [--kills 50] [--processes 1] [--signals KILL]
    python -m benchmarks.robustness.kills --signals INT TERM HUP

Every run's teacher and student are compared with those of one that was left alone, bit for bit. Of signals that a process may answer, the
seconds until all its processes ended are measured. The same call goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
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
from matchlib.io import read_json, write_json

PLACE = CACHE / "kills"
MOST = 6  # signals to a run, after which it is let alone
SETTINGS = [
    "data.name=moons",
    "teacher.network={name: mlp, width: 8, depth: 1}",
    "teacher.training={steps: 400, batch_size: 16}",
    "trainer={steps: 400, batch_size: 16, log_every: 10, checkpoint_every: 7, monitor_every: 20, extra_ema_decays: [0.9]}",
    "evaluation={draws: 1, metrics: [frechet-raw]}",
]


def command(run: Path, processes: int, *, resume: bool) -> list[str]:
    """Returns how a run is begun or gone on with."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
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


def everyone(process: int) -> list[int]:
    """Returns a process and all that it started, wherever they are: those of torchrun lead sessions of their own."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def phase_of(run: Path) -> str:
    """Returns what a run is at, from its folder."""
    for name, phase in (("evaluation.json", "writing"), ("student", "scoring"), ("teacher", "student"), ("config.yaml", "teacher")):
        if (run / name).exists():
            return phase
    return "start"


def disturbed(
    index: int, processes: int, seconds: float, signals: list[str], rng: np.random.Generator
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor], list[str]]:
    """Returns what a run was sent before it ended, its weights, and what went wrong."""
    run, sent, wrong = PLACE / f"run-{index}", list[dict[str, Any]](), list[str]()
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
            _, error = process.communicate(timeout=rng.uniform(0.3, 1.0) * seconds if len(sent) < MOST else None)
        except subprocess.TimeoutExpired:
            name, phase, begin = str(rng.choice(signals)), phase_of(run), time.perf_counter()
            for one in everyone(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, getattr(signal, f"SIG{name}"))
            _, error = process.communicate()
            sent.append({"signal": name, "phase": phase, "seconds": time.perf_counter() - begin, "exit": process.returncode})
            if "Traceback" in error and processes == 1:
                wrong.append(f"{name}: {error.strip().splitlines()[-1]}")
            continue
        if process.returncode:
            wrong.append(error.strip()[-400:] if error.strip() else f"exit {process.returncode}")
        return sent, weights(run) if not process.returncode else {}, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--signals", nargs="+", default=["KILL"], choices=["KILL", "INT", "TERM", "HUP"])
    given = parser.parse_args()
    name = "kills" if given.signals == ["KILL"] else "signals"
    name += "" if given.processes == 1 else f"-{given.processes}"
    for asked in (signal.SIGINT, signal.SIGHUP):  # a shell's background jobs ignore them, and hand that on
        signal.signal(asked, signal.SIG_DFL)
    place, expected = PLACE / f"{name}.json", dict[str, torch.Tensor]()
    PLACE.mkdir(parents=True, exist_ok=True)
    for folder in (*PLACE.glob("run-*"), *PLACE.glob("cache-*"), PLACE / "alone"):
        shutil.rmtree(folder, ignore_errors=True)
    rows: list[dict[str, Any]] = read_json(place)["rows"] if place.exists() else []
    expected, seconds = alone(given.processes)
    while (done := sum(len(row["sent"]) for row in rows)) < given.kills:
        index = len(rows)
        sent, found, wrong = disturbed(index, given.processes, seconds, given.signals, np.random.default_rng(index))
        same = found.keys() == expected.keys() and all(torch.equal(found[key], x) for key, x in expected.items())
        rows.append({"run": index, "processes": given.processes, "sent": sent, "same weights": same, "wrong": wrong})
        print(rows[-1], f"{done + len(sent)} of {given.kills}", flush=True)
        write_json(place, {"rows": rows})
        shutil.rmtree(PLACE / f"run-{index}", ignore_errors=True)
        shutil.rmtree(PLACE / f"cache-{index}", ignore_errors=True)
    save(name, rows, kills=done, slowest=max((part["seconds"] for row in rows for part in row["sent"]), default=None))


if __name__ == "__main__":
    main()
