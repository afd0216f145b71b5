"""Do scores survive being killed? The scoring of a finished run is killed (SIGKILL) at random moments and resumed, until it ends.

    python -m benchmarks.robustness.scoring_kills [--kills 20]

Every ``evaluation.json`` is compared with that of scoring that was left alone, but for the seconds in it.
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

from benchmarks.record import save
from benchmarks.robustness.kills import PLACE, environment
from matchlib.io import read_json

SETTINGS = ["teacher.training.steps=400", "trainer.steps=200", "evaluation.draws=10", "evaluation.teacher_steps=[2, 8]"]
BEGINS = "evaluation: sampling"  # the line that scoring begins with


def started(run: Path) -> subprocess.Popen[str]:
    """Returns a process that has begun to score a run."""
    command = [sys.executable, "-m", "matchlib_cli", "resume", str(run)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment("scoring"), start_new_session=True, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(BEGINS):
            return process
    raise RuntimeError(f"the scoring of {run} did not begin")


def scores(run: Path) -> dict[str, Any]:
    """Returns a run's evaluation without times."""
    report = read_json(run / "evaluation.json")
    return {kind: {k: v for k, v in row.items() if k != "seconds"} if isinstance(row, dict) else row for kind, row in report.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    given = parser.parse_args()
    shutil.rmtree(PLACE, ignore_errors=True)
    alone, run = PLACE / "scored", PLACE / "killed"
    options = [part for item in SETTINGS for part in ("--set", item)]
    command = [sys.executable, "-m", "matchlib_cli", "distill", "--out", str(alone), *options]
    subprocess.run(command, check=True, env=environment("scoring"), stdout=subprocess.DEVNULL)
    expected = scores(alone)

    def unscored() -> None:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(alone, run)
        (run / "evaluation.json").unlink()

    unscored()
    process, begin = started(run), time.perf_counter()
    process.communicate()
    whole = time.perf_counter() - begin
    same, rng, done, rows = scores(run) == expected, np.random.default_rng(0), 0, list[dict[str, Any]]()
    rows.append({"run": 0, "kills": 0, "same scores": same, "seconds": whole})
    while done < given.kills:
        unscored()
        kills = 0
        while not (run / "evaluation.json").exists():
            process = started(run)
            try:
                process.communicate(timeout=rng.uniform(0.02, 0.6) * whole if kills < 5 else None)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                kills += 1
        done += kills
        rows.append({"run": len(rows), "kills": kills, "same scores": scores(run) == expected})
        print(rows[-1], f"{done} of {given.kills}", flush=True)
    save("scoring-kills", rows, kills=done)


if __name__ == "__main__":
    main()
