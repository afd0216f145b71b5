"""The same settings with trained networks: the demo (flow, digits, default budget, seed 0) with other alpha, beta, gamma and space.

    python -m benchmarks.studies.claims.trained      about 90 seconds a setting on two cores; a finished run is not repeated

One teacher, stopped early (400 steps), for all of them; one seed. Frechet distances against the training split, held-out data beside them.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.record import CACHE, STUDIES, save

SETTINGS: dict[str, tuple[str, ...]] = {
    "uid": ("--alpha", "1", "--beta", "1", "--set", "loss.gamma=null"),
    "paper": ("--alpha", "0.92", "--beta", "0.94", "--set", "loss.gamma=null"),
    "demo": (),
    "four": ("--alpha", "4", "--beta", "4", "--gamma", "0.5"),
    "diagonal": ("--set", "loss.space=data"),
    "paperdata": ("--alpha", "0.96", "--beta", "0.92", "--set", "loss.gamma=null", "--set", "loss.space=data"),
    "data": ("--alpha", "1", "--beta", "1.25", "--gamma", "0.5", "--set", "loss.space=data"),
}


def scores(name: str, options: tuple[str, ...]) -> dict:
    folder = CACHE / "claims-trained" / name
    if not (folder / "evaluation.json").exists():
        command = [sys.executable, "-m", "matchlib_cli", "distill", "--teacher", "flow", "--student", "onestep", *options]
        subprocess.run([*command, "--out", str(folder)], check=True)
    report = json.loads((folder / "evaluation.json").read_text())
    keys = ("frechet", "frechet_raw", "coverage", "nearest_ratio")
    return {who: {key: report[who][key] for key in keys} for who in ("student", "teacher", "held_out")}


def main() -> None:
    rows = []
    for name, options in SETTINGS.items():
        rows.append({"options": " ".join(options) or "(defaults: alpha = beta = 2, gamma = .5)", **scores(name, options)})
        print(rows[-1]["options"], rows[-1]["student"], flush=True)
    save("claims-trained", rows, seed=0, folder=STUDIES)


if __name__ == "__main__":
    main()
