"""Which settings correct best? One run each: flow, digits, the teacher that was stopped early and the good one, seed 0.

python benchmarks/correction/tuning.py
"""

from __future__ import annotations

import math
from typing import Any

from common import student, teacher
from methods import HALF
from record import save
from tasks import DIGITS

KINDS = ("stopped early", "good")


def real(alpha: float, **more: Any) -> dict[str, Any]:
    """Returns RealUID at alpha = beta, gamma = 1/2 unless it says otherwise."""
    return {"loss": {"name": "realuid", "alpha": alpha, "beta": alpha, "gamma": 0.5, **more}}


def rates(student_factor: float, critic_factor: float) -> dict[str, Any]:
    """Returns step sizes relative to the family's, 1e-3 and 2e-3."""
    return {"trainer.student_factor": student_factor, "trainer.critic_factor": critic_factor}


UID: dict[str, Any] = {"loss": {"name": "uid"}}
ADAM: dict[str, Any] = {"trainer.betas": (0.0, 0.99)}
SETTINGS: dict[str, dict[str, Any]] = {
    "UID": UID,
    "UID, beta_2 = .99": UID | ADAM,
    "UID, half rates": UID | HALF,
    "alpha = 8, critic x 2, beta_2 = .99 (the recipe)": real(8.0) | rates(1.0, 2.0) | ADAM,
    "alpha = 8, critic x 2": real(8.0) | rates(1.0, 2.0),
    "alpha = 2 (the default of `distill`)": real(2.0),
    "alpha = 2, beta_2 = .99": real(2.0) | ADAM,
    "alpha = 2, critic x 2": real(2.0) | rates(1.0, 2.0),
    "alpha = 2, half rates": real(2.0) | HALF,
    "alpha = 16, critic x 2": real(16.0) | rates(1.0, 2.0),
    "alpha = ∞, critic x 2": real(math.inf) | rates(1.0, 2.0),
    "alpha = 8, critic x 2, no weights": real(8.0, weight_power=0.0) | rates(1.0, 2.0),
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
