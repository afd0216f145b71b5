"""Which settings correct best? One run each: flow, digits, the teacher that was stopped early and the good one, seed 0.

python -m benchmarks.studies.correction.tuning
"""

from __future__ import annotations

import math
from typing import Any

from benchmarks.record import STUDIES, save
from benchmarks.studies.correction.common import student, teacher
from benchmarks.studies.correction.tasks import DIGITS

KINDS = ("stopped early", "good")
UID: dict[str, Any] = {"loss": {"name": "uid"}}
RECIPE: dict[str, Any] = {"recipe": "correct"}
UNIFORM: dict[str, Any] = {"trainer.times": {"log_sigma": None}}
SLOW: dict[str, Any] = {"trainer.betas": (0.0, 0.999)}  # the usual second moment


def _at(alpha: float, **more: Any) -> dict[str, Any]:
    return RECIPE | {"loss": {"name": "realuid", "alpha": alpha, "beta": alpha, "gamma": 0.5, **more}}


SETTINGS: dict[str, dict[str, Any]] = {
    "UID": UID,
    "UID, uniform times": UID | UNIFORM,
    "UID, beta_2 = .999": UID | SLOW,
    "alpha = 2, the default of `distill`": {},
    "alpha = 2, uniform times": UNIFORM,
    "alpha = 2, uniform times, beta_2 = .999": UNIFORM | SLOW,
    "the recipe": RECIPE,
    "the recipe, uniform times": RECIPE | UNIFORM,
    "the recipe, beta_2 = .999": RECIPE | SLOW,
    "the recipe, in units of alpha": _at(8.0, rescaled=True),
    "the recipe, alpha = 4": _at(4.0),
    "the recipe, alpha = 16": _at(16.0),
    "the recipe, alpha = ∞": _at(math.inf),
}


def main() -> None:
    least, rows = DIGITS.floor(), []
    for name in ("teacher", *SETTINGS):
        for kind in KINDS:
            found = teacher(DIGITS, "flow", kind, 0)[1] if name == "teacher" else student(**SETTINGS[name])(DIGITS, "flow", kind, 0)
            rows.append({"settings": name, "kind": kind, **found})
            print(f"{name:55} {kind:15} excess {found['frechet'] - least['frechet']:.3f}  raw {found['frechet_raw']:.2f}", flush=True)
        save("correction-tuning", rows, folder=STUDIES, floor=least, seed=0)  # as far as it goes


if __name__ == "__main__":
    main()
