"""Do real data correct a wrong teacher? Weak teachers of five kinds and a good one, students of equal turns, digits.

    python benchmarks/correction/digits.py [--family flow] [--seeds 0 1 2 3 4] [--methods uid correct default] [--kinds ...]

Excess is the Frechet distance over that of held-out data, all against the training split at 360 samples, ten draws. `further` trains the
teacher on with all data first, and then distils it with UID in fewer turns, so that it costs as many evaluations as `correct`.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import KINDS, evaluations, floor, further, student, teacher
from page import interval
from record import save

TURNS = 3200
# UID and its like fell apart from the teacher that was stopped early at the family's own rates, and with the recipe's (Frechet 1e8, 4e12)
HALF = {"trainer.student_factor": 0.5, "trainer.critic_factor": 0.5}
METHODS: dict[str, dict[str, Any]] = {
    "uid": {"loss": {"name": "uid"}, **HALF},
    "published": {"loss": {"name": "realuid", "alpha": 0.94, "beta": 0.96}, **HALF},
    "default": {},  # what `matchlib distill` does when nothing is said
    "two": {"loss": {"name": "realuid", "alpha": 2.0, "beta": 2.0, "gamma": 0.5}, **HALF},
    "correct": {"recipe": "correct"},
    "limit": {"loss": {"name": "realuid", "alpha": float("inf"), "beta": float("inf"), "gamma": 0.5}, **HALF},
    "further": {"loss": {"name": "uid"}, **HALF},
}

ONLY = {"default": ("good",), "further": tuple(kind for kind in KINDS if kind != "good")}  # the kinds that a method is tried on, if not all


def cell_of(family: str, kind: str, method: str, seed: int) -> dict[str, Any]:
    """Returns the scores of one student."""
    settings = {"trainer.steps": TURNS, **METHODS[method]}
    if method != "further":
        return student(family, kind, seed, settings)
    turns = TURNS // 2
    steps = int((evaluations(TURNS, real=True) - evaluations(turns, real=False)) / 3)
    return further(family, kind, seed, {**settings, "trainer.steps": turns}, steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", default="flow")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=["uid", "correct", "default"], choices=list(METHODS))
    parser.add_argument("--name", help="of the file of results; correction-digits-FAMILY by default")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    given = parser.parse_args()
    least, rows, name = floor(), [], given.name or f"correction-digits-{given.family}"
    for seed in given.seeds:
        for kind in given.kinds:
            found = {"teacher": teacher(given.family, kind, seed)[1]}
            for method in [method for method in given.methods if kind in ONLY.get(method, KINDS)]:
                found[method] = cell_of(given.family, kind, method, seed)
            rows += [{"family": given.family, "kind": kind, "seed": seed, "method": method, **x} for method, x in found.items()]
            print(seed, f"{kind:24}", {method: round(x["frechet"] - least["frechet"], 3) for method, x in found.items()}, flush=True)
        save(name, rows, floor=least, turns=TURNS)  # what is there so far
    for kind in given.kinds:
        for method in ("teacher", *given.methods):
            own = [row for row in rows if (row["kind"], row["method"]) == (kind, method)]
            if not own:
                continue
            mean, half = interval([row["frechet"] - least["frechet"] for row in own])
            raw, cover, near = (np.mean([row[key] for row in own]) for key in ("frechet_raw", "coverage", "nearest_ratio"))
            print(f"{kind:24} {method:10} excess {mean:6.3f} +- {half:.3f}  raw {raw:6.2f}  coverage {cover:.2f}  nearest {near:.2f}")
    save(name, rows, floor=least, turns=TURNS)


if __name__ == "__main__":
    main()
