"""Do real data correct a wrong teacher? Teachers of digits that are wrong in four ways and a good one, three seeds.

    python -m benchmarks.quality.correction [--kinds "stopped early" ...] [--seeds 0 1 2] [--arms uid default correct]

Every cell is ``matchlib distill`` of a teacher of ``matchlib train``, with one thread. Teachers and students see no labels; scores are of
features of a classifier of the labelled data. Spoilt data are a file, a fifth of which the teacher's run holds out. Cells are cached.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import matchlib
from benchmarks.record import CACHE, cell, defaults, distilled, interval, save, save_arrays
from benchmarks.studies.correction.tasks import DIGITS
from matchlib.data.readers import load_dataset
from matchlib.runs.recipes import recipe

PLACE = CACHE / "correction"
SHOWN = ("frechet", "frechet_raw", "coverage", "nearest_ratio", "class_shares")
SAMPLES = 3600
COMMON = ["data.labels=false", "trainer.batch_size=128", "evaluation.metrics=[frechet-raw]", "evaluation.draws=1"]
Spoil = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]
ARMS: dict[str, list[str]] = {"uid": ["--loss", "uid"], "default": [], "correct": ["--recipe", "correct"]}
ONLY = {"default": ("stopped early", "good")}  # the kinds of teachers that an arm is tried on, if not all
NETWORK = '{"name":"mlp","width":192,"depth":4}'  # of students, whatever the teacher's
SMALL = '{"name":"mlp","width":32,"depth":3}'
LONG = ["teacher.training.steps=2000"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(CACHE / "teachers")}


KINDS: dict[str, tuple[Spoil | None, list[str]]] = {  # what is done to the data, settings of the teacher
    "stopped early": (None, ["teacher.training.steps=100"]),
    "a tenth of the weights": (None, [f"teacher.network={SMALL}", "teacher.training.steps=400"]),
    "a tenth of the data": (DIGITS.kinds["a tenth of the data"].spoil, LONG),
    "wrong class shares": (DIGITS.kinds["wrong class balance"].spoil, LONG),
    "good": (None, LONG),
}


def settings(given: list[str]) -> list[str]:
    """Returns settings as options."""
    return [part for setting in given for part in ("--set", setting)]


def taught(kind: str, seed: int) -> Path:
    """Trains a teacher on spoilt data and returns its folder."""
    spoil, own = KINDS[kind]
    folder = PLACE / f"{'-'.join(kind.split())}-{seed}"
    data = "digits"
    if spoil is not None:
        digits, data = load_dataset("digits"), str(folder / "data.npz")
        x = digits.denormalize(digits.train.data).numpy()
        save_arrays(folder / "data.npz", data=spoil(x, digits.train.label.numpy(), np.random.default_rng(seed)))
    shutil.rmtree(folder / "run", ignore_errors=True)
    options = ["--family", "flow", "--data", data, "--seed", str(seed), *settings([*own, "data.labels=false", "evaluation.draws=1"])]
    command = [sys.executable, "-m", "matchlib_cli", "train", *options, "--out", str(folder / "run")]
    subprocess.run(command, check=True, env=ONE_THREAD, stdout=subprocess.DEVNULL)
    return folder / "run" / "teacher"


def corrected(kind: str, seed: int, arm: str) -> dict[str, Any]:
    """Returns the scores of a teacher and of a student of it that sees all of the data, none of the labels."""
    teacher, run = taught(kind, seed), PLACE / "student"
    options = ["--teacher", str(teacher), "--data", "digits", "--seed", str(seed), *ARMS[arm], *settings(COMMON)]
    if KINDS[kind][1][0].startswith("teacher.network"):
        options += settings([f"student.network={NETWORK}", f"trainer.critic_network={NETWORK}"])
    row = {"seconds": distilled(options, run, (), OMP_NUM_THREADS="1")["seconds_in_all"]}
    for whose, folder in (("student", run / "student"), ("teacher", teacher)):
        save_arrays(run / "drawn.npz", data=matchlib.load(folder).sample(SAMPLES, seed=1).numpy())
        scored = matchlib.score(run / "drawn.npz", "digits")
        row |= {name: {key: scored[of][key] for key in SHOWN} for name, of in ((whose, "given"), ("held_out", "held_out"))}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for kind in given.kinds:
        for arm in (arm for arm in given.arms if kind in ONLY.get(arm, KINDS)):
            found = []
            for seed in given.seeds:
                key = {"benchmark": "correction of digits", "kind": kind, "teacher": KINDS[kind][1], "arm": ARMS[arm], "seed": seed}
                key |= {"common": [*COMMON, NETWORK, SAMPLES], "defaults": defaults("flow"), "recipe": recipe("correct")}
                found.append({"kind": kind, "arm": arm, "seed": seed, **cell(key, lambda k=kind, s=seed, a=arm: corrected(k, s, a))})
            rows += found
            mean = {whose: interval([row[whose]["frechet"] for row in found]) for whose in ("student", "teacher", "held_out")}
            shown = "  ".join(f"{whose} {value:.3f} +- {half:.3f}" for whose, (value, half) in mean.items())
            print(f"{kind:24} {arm:8} {shown}  {sum(row['seconds'] for row in found):.0f} s", flush=True)
    if (given.kinds, given.seeds, given.arms) == (list(KINDS), [0, 1, 2], list(ARMS)):
        save("correction", rows)


if __name__ == "__main__":
    main()
