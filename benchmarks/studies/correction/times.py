"""Where in time should a student be compared? Good teachers of every family, the default loss of ``distill`` (alpha = 2), seed 0.

    python -m benchmarks.studies.correction.times

Each family at the times that it was distilled at before and at those of log sigma from N(.5, 1).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.record import STUDIES, save
from benchmarks.studies.correction.common import student, teacher
from benchmarks.studies.correction.tasks import DIGITS

UNIFORM: dict[str, Any] = {"log_sigma": None}
BEFORE: dict[str, tuple[str, dict[str, Any]]] = {
    "flow": ("uniform", UNIFORM),
    "diffusion-vp": ("uniform, .03 to .4", {"log_sigma": None, "t_min": 0.03, "t_max": 0.4}),
    "diffusion": ("log-ratio N(.2, 1.4)", {"log_sigma": (0.2, 1.4)}),
    "interpolant": ("uniform", UNIFORM),
    "bridge": ("uniform", UNIFORM),
}
# the bridge is sampled as its family says: its field is no velocity at t = 1
BRIDGE = replace(DIGITS, settings={key: x for key, x in DIGITS.settings.items() if key != "teacher.sampler"})


def main() -> None:
    least, rows = DIGITS.floor(), []
    for family, (name, before) in BEFORE.items():
        task = BRIDGE if family == "bridge" else DIGITS
        for times, settings in (
            ("teacher", None),
            (name, {"trainer.times": before}),
            ("log-ratio N(.5, 1)", {"trainer.times": {"log_sigma": (0.5, 1.0)}}),
        ):
            found = teacher(task, family, "good", 0)[1] if settings is None else student(**settings)(task, family, "good", 0)
            rows.append({"family": family, "times": times, **found})
            print(f"{family:15} {times:22} excess {found['frechet'] - least['frechet']:.3f}  raw {found['frechet_raw']:.2f}", flush=True)
        save("correction-times", rows, folder=STUDIES, floor=least, seed=0)  # as far as it goes


if __name__ == "__main__":
    main()
