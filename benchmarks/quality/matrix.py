"""Does every student distil every family? Families x students x (labels, no labels) on digits: student against its own teacher.

python -m benchmarks.quality.matrix [--labels true false] [--only flow ...] [--threads 1]
"""

from __future__ import annotations

import argparse
from itertools import product
from typing import Any

from benchmarks.record import CACHE, cell, defaults, distilled, merged, save

UNPAIRED = ["--set", "teacher.coupling.name=minibatch-ot-data", "--set", "teacher.sees_source=false"]
FAMILIES: dict[str, list[str]] = {
    "flow": ["--teacher", "flow"],
    "diffusion VP": ["--teacher", "diffusion-vp"],
    "diffusion EDM": ["--teacher", "diffusion"],
    "bridge, paired": ["--teacher", "bridge", "--data", "digits-restore"],
    "bridge, unpaired": ["--teacher", "bridge", "--data", "digits-restore", *UNPAIRED],
    "interpolant, one-sided": ["--teacher", "interpolant"],
    "interpolant, two-sided": [
        *("--teacher", "interpolant", "--data", "digits-restore", *UNPAIRED),
        *("--set", "teacher.interpolant.name=noisy-linear", "--set", "teacher.objective={name: joint, parts: [data, noise]}"),
    ],
}
STUDENTS = {1: ["--student", "onestep"]} | {k: ["--student", "fewstep", "--set", f"student.steps={k}"] for k in (2, 4, 8)}
BOUNDS = {1: 1.3, 2: 1.3, 4: 1.1, 8: 1.1}  # student over teacher, Frechet distance
SHOWN = ("nfe", "frechet", "frechet_raw", "coverage", "nearest_ratio", "rmse", "seconds")
COMMON = ["--set", "evaluation.metrics=[frechet, frechet-raw, coverage, nearest-ratio]", "--set", "trainer.batch_size=128"]


def command(family: str, steps: int, labels: str, seed: int) -> list[str]:
    """Returns the options of ``matchlib distill`` for a cell."""
    return [*FAMILIES[family], *STUDENTS[steps], "--seed", str(seed), "--set", f"data.labels={labels}", *COMMON]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Returns the table of README.md: students' Frechet distances by evaluations, and ratios to their teachers."""
    steps = sorted({row["steps"] for row in rows})
    lines = [
        "| family | labels | teacher (evaluations) | " + " | ".join(f"student, {k}" for k in steps) + " |",
        "|---" * (3 + len(steps)) + "|",
    ]
    for family, labels in dict.fromkeys((row["family"], row["labels"]) for row in rows):
        cells = {row["steps"]: row for row in rows if (row["family"], row["labels"]) == (family, labels)}
        teacher = next(iter(cells.values()))["teacher"]
        shown = [f"{cells[k]['student']['frechet']:.2f} ({cells[k]['student_over_teacher']:.2f})" if k in cells else "" for k in steps]
        lines.append(f"| {family} | {'yes' if labels else 'no'} | {teacher['frechet']:.2f} ({teacher['nfe']}) | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(FAMILIES))
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4], choices=list(STUDENTS))
    parser.add_argument("--labels", nargs="+", default=["true", "false"], choices=["true", "false"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    rows = []
    for labels, family, steps in product(given.labels, given.only or FAMILIES, given.steps):
        options = command(family, steps, labels, given.seed)
        row = {"family": family, "steps": steps, "labels": labels == "true", "command": ["matchlib", "distill", *options]}
        row |= cell(
            {"benchmark": "matrix", "options": options, "defaults": defaults(FAMILIES[family][1], paired="digits-restore" in options)},
            lambda options=options: distilled(options, CACHE / "matrix-run", SHOWN, OMP_NUM_THREADS=str(given.threads)),
        )
        student, teacher = row["student"], row["teacher"]
        row["student_over_teacher"] = student["frechet"] / teacher["frechet"]
        row["within"] = row["student_over_teacher"] <= BOUNDS[steps]
        rows.append(row)
        print(
            f"{family:23} {steps} steps  labels {labels:5}  Frechet: student {student['frechet']:.3f}  teacher {teacher['frechet']:.3f} "
            f"({teacher['nfe']})  raw: {student['frechet_raw']:.3f} {teacher['frechet_raw']:.3f}  ratio {row['student_over_teacher']:.2f}"
            f"{'' if row['within'] else '  OUT OF BOUND'}  {row['seconds_in_all']:.0f} s",
            flush=True,
        )
    print(markdown(rows))
    for labels in given.labels:
        name = f"matrix-labels-{labels}"
        save(name, merged(name, [row for row in rows if row["labels"] == (labels == "true")], "family", "steps"), bounds=BOUNDS)


if __name__ == "__main__":
    main()
