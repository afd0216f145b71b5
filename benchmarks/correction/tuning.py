"""Which settings correct best? One run each: flow, digits, the teacher that was stopped early and the good one, seed 0.

python benchmarks/correction/tuning.py
"""

from __future__ import annotations

from typing import Any

from common import student, teacher
from methods import HALF, LIMIT
from record import save
from tasks import DIGITS

KINDS = ("stopped early", "good")
UID: dict[str, Any] = {"loss": {"name": "uid"}}
RECIPE: dict[str, Any] = {"recipe": "correct"}
SETTINGS: dict[str, dict[str, Any]] = {
    "UID, the family's own rates": UID,
    "UID, beta_2 = .99": UID | {"trainer.betas": (0.0, 0.99)},
    "UID, half rates": UID | HALF,
    "alpha = 2, the default of `distill`": {},
    "the recipe": RECIPE,
    "the recipe, beta_2 = .999": RECIPE | {"trainer.betas": (0.0, 0.999)},
    "the recipe, alpha = ∞": RECIPE | LIMIT,
    "the recipe, alpha = 16": RECIPE | {"loss": {"name": "realuid", "alpha": 16.0, "beta": 16.0, "gamma": 0.5}},
    "the recipe, no weights": RECIPE | {"loss": {"name": "realuid", "alpha": 8.0, "beta": 8.0, "gamma": 0.5, "weight_power": 0.0}},
    "alpha = 2, beta_2 = .99": {"trainer.betas": (0.0, 0.99)},
    "alpha = 2, critic x 2": {"trainer.critic_factor": 2.0},
    "alpha = 2, half rates": HALF,
}


def main() -> None:
    least, rows = DIGITS.floor(), []
    for name in ("teacher", *SETTINGS):
        for kind in KINDS:
            found = teacher(DIGITS, "flow", kind, 0)[1] if name == "teacher" else student(**SETTINGS[name])(DIGITS, "flow", kind, 0)
            rows.append({"settings": name, "kind": kind, **found})
            print(f"{name:55} {kind:15} excess {found['frechet'] - least['frechet']:.3f}  raw {found['frechet_raw']:.2f}", flush=True)
        save("correction-tuning", rows, floor=least, seed=0)  # as far as it goes


if __name__ == "__main__":
    main()
