"""Which settings correct best? One run each: flow, digits, the teacher that was stopped early, seed 0.

python benchmarks/correction/tuning.py
"""

from __future__ import annotations

import math
from typing import Any

from common import floor, student, teacher
from record import save

KIND = "stopped early"


def real(alpha: float, **more: Any) -> dict[str, Any]:
    """Returns RealUID at alpha = beta, gamma = 1/2 unless it says otherwise."""
    return {"loss": {"name": "realuid", "alpha": alpha, "beta": alpha, "gamma": 0.5, **more}}


def run(student_rate: float, critic_rate: float, turns: int = 2000, **more: Any) -> dict[str, Any]:
    """Returns step sizes and turns."""
    return {"trainer.student_rate": student_rate, "trainer.critic_rate": critic_rate, "trainer.steps": turns, **more}


UID: dict[str, Any] = {"loss": {"name": "uid"}}
SETTINGS: dict[str, dict[str, Any]] = {
    "UID, rates 1e-3 and 2e-3, 3,200 turns": UID,
    "UID, rates 1e-3 and 4e-3, 3,200 turns": UID | run(1e-3, 4e-3, 3200),
    "UID, rates 5e-4 and 1e-3": UID | run(5e-4, 1e-3),
    "alpha = 4, 5e-4 and 1e-3": real(4.0) | run(5e-4, 1e-3),
    "alpha = 4, 5e-4 and 2e-3": real(4.0) | run(5e-4, 2e-3, **{"trainer.ema": 0.99}),
    "alpha = 4, 5e-4 and 4e-3": real(4.0) | run(5e-4, 4e-3, **{"trainer.ema": 0.99}),
    "alpha = 4, 1e-3 and 2e-3": real(4.0) | run(1e-3, 2e-3),
    "alpha = 4, 1e-3 and 4e-3, 3,200 turns": real(4.0) | run(1e-3, 4e-3, 3200),
    "alpha = 8, 5e-4 and 1e-3": real(8.0) | run(5e-4, 1e-3),
    "alpha = 8, 1e-3 and 4e-3, 3,200 turns (the recipe)": real(8.0) | run(1e-3, 4e-3, 3200),
    "alpha = 4 in units of alpha, 5e-4 and 1e-3": real(4.0, rescaled=True) | run(5e-4, 1e-3),
    "alpha = 8 in units of alpha, 5e-4 and 1e-3": real(8.0, rescaled=True) | run(5e-4, 1e-3),
    "alpha = 8 in units of alpha, 1e-3 and 5e-4": real(8.0, rescaled=True) | run(1e-3, 5e-4),
    "alpha = ∞, 5e-4 and 1e-3": real(math.inf) | run(5e-4, 1e-3),
    "alpha = ∞, ramp over half of the turns, 5e-4 and 1e-3": real(math.inf, ramp=0.5) | run(5e-4, 1e-3),
    "alpha = 4, gamma = .8, 5e-4 and 2e-3": real(4.0, gamma=0.8) | run(5e-4, 2e-3, **{"trainer.ema": 0.99}),
}


def main() -> None:
    least = floor()
    rows = [{"settings": "(the teacher, 50 evaluations)", **teacher("flow", KIND, 0)[1]}]
    for name, settings in SETTINGS.items():
        rows.append({"settings": name, **student("flow", KIND, 0, settings)})
        print(f"{name:60} excess {rows[-1]['frechet'] - least['frechet']:.3f}  raw {rows[-1]['frechet_raw']:.2f}", flush=True)
    save("correction-tuning", rows, floor=least, kind=KIND, seed=0)


if __name__ == "__main__":
    main()
