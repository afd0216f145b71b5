"""One step without a trained teacher: is a teacher worth its training?

    python -m benchmarks.studies.correction.alone [--seeds 0 1]

Flow, digits, no labels. Where there is no teacher, the network that stands for it is an untrained one, which predicts what the field of a
white Gaussian would, and student and critic start from scratch. All rows cost as many network evaluations as a teacher of 2,000 steps of
256 and 3,200 steps of 128 with real points.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import Any

from benchmarks.record import STUDIES, save
from benchmarks.studies.correction.alternatives import BUDGET, CYCLE, LEARN, UID_CYCLE, affordable_steps
from benchmarks.studies.correction.common import Method, defaults_of, merged, student, teacher
from benchmarks.studies.correction.methods import GUARDED
from benchmarks.studies.correction.tasks import DIGITS, Kind, Task

TASK = replace(DIGITS, kinds={**DIGITS.kinds, "none": Kind(settings={"teacher.training.steps": 1})})
TAUGHT = 2000 * (256 // 128) * LEARN  # evaluations of the good teacher's training, a sample of a batch of 128


def alone(alpha: float) -> dict[str, Any]:
    """Returns the recipe at another alpha, with the steps that a teacher would have cost."""
    loss = {"name": "realuid", "alpha": alpha, "beta": alpha, "gamma": 0.5}
    return {"recipe": "correct", "loss": loss, "trainer.steps": affordable_steps(BUDGET + TAUGHT, CYCLE)}


ROWS: dict[str, tuple[str, Method]] = {
    "teacher, UID": ("good", student(**GUARDED, **{"trainer.steps": affordable_steps(BUDGET, UID_CYCLE)})),
    "teacher, recipe": ("good", student(recipe="correct")),
    "no teacher, alpha = 8": ("none", student(**alone(8.0))),
    "no teacher, alpha = 32": ("none", student(**alone(32.0))),
    "no teacher, alpha = ∞": ("none", student(**alone(math.inf))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given, least, rows = parser.parse_args(), TASK.floor(), []
    for seed in given.seeds:
        for name, (kind, method) in ROWS.items():
            found = method(TASK, "flow", kind, seed)
            rows.append({"method": name, "kind": kind, "seed": seed, "teacher": _distance(TASK, kind, seed), **found})
            print(seed, f"{name:25} excess {found['frechet'] - least['frechet']:.3f}  raw {found['frechet_raw']:.2f}", flush=True)
        save("correction-alone", merged("correction-alone", rows), floor=least, defaults=defaults_of("flow"), folder=STUDIES)


def _distance(task: Task, kind: str, seed: int) -> float:
    return float(teacher(task, "flow", kind, seed)[1][task.key])


if __name__ == "__main__":
    main()
