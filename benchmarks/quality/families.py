"""Does the same command distil every family? Student against teacher against held-out data, defaults only.

python -m benchmarks.quality.families [--seeds 0] [--only flow ...]
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.record import CACHE, cell, defaults, distilled, merged, save

CELLS = [
    ("flow", "digits"),
    ("diffusion", "digits"),
    ("diffusion-vp", "digits"),
    ("bridge", "digits"),
    ("interpolant", "digits"),
    ("bridge", "digits-restore"),
]
SHOWN = ("nfe", "frechet", "frechet_raw", "sliced_wasserstein", "coverage", "nearest_ratio", "rmse", "seconds")


def run(family: str, data: str, seed: int, more: list[str]) -> dict[str, Any]:
    """Returns the scores of a cell."""
    options = ["--teacher", family, "--data", data, "--seed", str(seed), *more]
    return distilled(options, CACHE / f"run-{family}-{data}-{seed}", SHOWN)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the table of README.md."""
    lines = ["| family | data | student, 1 evaluation | teacher (evaluations) | ratio | raw: student, teacher | nearest train |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in rows:
        student, teacher = row["student"], row["teacher"]
        cells = [
            f"`{row['family']}`",
            f"`{row['data']}`",
            f"{student['frechet']:.2f}",
            f"{teacher['frechet']:.2f} ({teacher['nfe']})",
            f"{row['student_over_teacher']:.2f}",
            f"{student['frechet_raw']:.2f}, {teacher['frechet_raw']:.2f}",
            f"{student['nearest_ratio']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+")
    given, more = parser.parse_known_args()
    rows = []
    for family, data in CELLS:
        if given.only and family not in given.only:
            continue
        for seed in given.seeds:
            key = {"benchmark": "families", "family": family, "data": data, "seed": seed, "more": more}
            key["defaults"] = defaults(family, paired=data == "digits-restore")
            row = {"family": family, "data": data, "seed": seed} | cell(key, lambda f=family, d=data, s=seed: run(f, d, s, more))
            student, teacher, held = row["student"], row["teacher"], row["held_out"]
            row["student_over_teacher"] = student["frechet"] / teacher["frechet"]
            row["teacher_over_held_out"] = teacher["frechet"] / held["frechet"]
            rows.append(row)
            print(
                f"{family:13} {data:15} seed {seed}  Frechet: student {student['frechet']:.3f}  teacher {teacher['frechet']:.3f} "
                f"({teacher['nfe']} evaluations)  held-out {held['frechet']:.3f}  raw: {student['frechet_raw']:.3f} "
                f"{teacher['frechet_raw']:.3f}  "
                f"student/teacher {row['student_over_teacher']:.2f}  {row['seconds_in_all']:.0f} s",
                flush=True,
            )
    if not more:
        rows = merged("families", rows, "family", "data", "seed")
        print(markdown(rows))
        save("families", rows, bounds={"student_over_teacher": 1.3, "teacher_over_held_out": 3.0})


if __name__ == "__main__":
    main()
