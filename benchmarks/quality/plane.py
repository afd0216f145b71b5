"""Are the default loss and the recipe for weak teachers as good as UID in the plane, from a good teacher?

    python -m benchmarks.quality.plane [--sets moons checkerboard eight-gaussians] [--seeds 0 1 2] [--arms uid default correct ...]

Three sets whose Wasserstein distance is exact. One teacher for each set and seed, from the cache; 2,000 held-out points are the floor.
Cells are cached.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.record import CACHE, cell, defaults, distilled, interval, save
from matchlib.runs.recipes import recipe

SETS = ("moons", "checkerboard", "eight-gaussians")
SHOWN = ("w2", "sliced_wasserstein", "frechet_raw", "coverage", "nearest_ratio", "seconds")
TRAINED = ["--set", "teacher.training.steps=3000"]
ARMS: dict[str, list[str]] = {
    "uid": ["--loss", "uid"],
    "default": [],
    "correct": ["--recipe", "correct"],
    "default, one critic step": ["--set", "trainer.critic_steps=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in given.sets:
        for arm in given.arms:
            found = []
            for seed in given.seeds:
                options = ["--teacher", "flow", "--data", name, "--seed", str(seed), *TRAINED, *ARMS[arm]]
                key = {"benchmark": "plane", "options": options, "defaults": defaults("flow"), "recipe": recipe("correct")}
                folder = CACHE / f"plane-{name}-{seed}-{'-'.join(arm.replace(',', '').split())}"
                row = {"set": name, "arm": arm, "seed": seed, **cell(key, lambda o=options, f=folder: distilled(o, f, SHOWN))}
                rows.append(row)
                found.append(row)
            show = {kind: [x[kind] for x in found] for kind in ("student", "teacher", "held_out")}
            w2 = {kind: interval([x["w2"] for x in values])[0] for kind, values in show.items()}
            half = interval([x["w2"] for x in show["student"]])[1]
            coverage = {kind: interval([x["coverage"] for x in values])[0] for kind, values in show.items()}
            print(
                f"{name:16} {arm:28} W2 student {w2['student']:.3f} +- {half:.3f} teacher {w2['teacher']:.3f} data {w2['held_out']:.3f}  "
                f"coverage {coverage['student']:.2f} {coverage['teacher']:.2f} {coverage['held_out']:.2f}",
                flush=True,
            )
    if (given.sets, given.seeds, given.arms) == (list(SETS), [0, 1, 2], list(ARMS)):
        save("plane", rows)


if __name__ == "__main__":
    main()
