"""When does a student of real data begin to copy them? Steps, alpha, and how many real data there are.

    python -m benchmarks.studies.correction.memorising

Flow, digits, no labels, seed 0. A teacher of 400 steps on all training data; students that see all 1,437 real digits, or only 144 of them.
`copies` and `nearest` are taken against the real digits that the student saw: the share of samples nearer to one of them than all but 5% of
held-out digits are, and the median distance over that of held-out digits.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import matchlib
from benchmarks.record import STUDIES, save
from benchmarks.studies.correction.common import arguments, settings_of, teacher, working
from benchmarks.studies.correction.tasks import DIGITS, Kind
from matchlib.data.dataset import Dataset
from matchlib.evaluation.reference import Reference
from matchlib.evaluation.score import reference_of, scores

TASK = replace(DIGITS, kinds={"usual": Kind(settings={"teacher.training.steps": 400})})
PLAN = {  # steps: {real digits seen: alphas}
    3200: {1437: (1.0, 2.0, 8.0, math.inf), 144: (1.0, 2.0, 8.0, math.inf)},
    12_800: {1437: (8.0, math.inf), 144: (2.0, 8.0)},
}


def seen(count: int) -> Dataset:
    """Returns the data with so many of the training digits."""
    full = TASK.data()
    few = np.random.default_rng(0).permutation(len(full.train.data))[:count]
    return replace(full, train=replace(full.train, data=full.train.data[few.tolist()]))


def made(count: int, alpha: float, steps: int, folder: Path) -> dict[str, Any]:
    """Returns the scores of a student, against all training data and against what it saw."""
    from_, _ = teacher(TASK, "flow", "usual", 0)
    data, full = seen(count), TASK.load()
    student = matchlib.distill(from_, data, out=folder, **arguments(settings(alpha, steps)))
    reference = reference_of(full)
    x = (student.denormalize(student.sample_batch(3600, seed=0).data) - full.shift) / full.scale
    of_seen = Reference(data.train.data, full.held_out.data, reference.extractor, reference.size)
    own = scores(of_seen, x, ("copies", "nearest-ratio"))
    return {**scores(reference, x, ("frechet", "coverage")), **own}


def settings(alpha: float, steps: int) -> dict[str, Any]:
    """Returns the recipe at an alpha."""
    loss: dict[str, Any] = {"name": "realuid", "alpha": alpha, "beta": alpha, "gamma": 0.5 if alpha > 1 else None}
    return settings_of(TASK, "usual", {"recipe": "correct", "loss": loss, "trainer.steps": steps})


def main() -> None:
    rows, least = [], TASK.floor()
    for steps, plan in PLAN.items():
        for count, alphas in plan.items():
            for alpha in alphas:
                what = {"method": f"sees {count}", "family": "flow", "kind": "usual", "seed": 0, "settings": settings(alpha, steps)}
                found = working(TASK, what, partial(made, count, alpha, steps))
                rows.append({"seen": count, "alpha": alpha, "steps": steps, **found})
                print({key: round(x, 3) if isinstance(x, float) else x for key, x in rows[-1].items()}, flush=True)
            save("correction-memorising", rows, floor=least, folder=STUDIES)


if __name__ == "__main__":
    main()
