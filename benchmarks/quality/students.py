"""Are students of good teachers of MNIST as good as they are, in one, two and four evaluations?

    python -m benchmarks.quality.teachers --mnist MNIST.npz
    python -m benchmarks.quality.students --mnist MNIST.npz [--steps 1 2 4] [--only flow ...]

Every cell is ``matchlib distill`` of a teacher of ``benchmarks/quality/teachers.py``, of 1,600 steps, nothing else set but batches of 128.
Three seeds of one-step students of flow; one student of ``--recipe correct`` and one with the default loss of a teacher whose training
ended after 1,000 steps. Cells are cached. ``--only`` leaves the results of the others as they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.quality import teachers
from benchmarks.record import CACHE, cell, defaults, distilled, merged, save, start_of
from matchlib.runs.recipes import recipe

SHOWN = ("nfe", "frechet", "frechet_raw", "class_shares", "classes_missing", "coverage", "nearest_ratio", "psnr", "seconds")
BOUNDS = {"ratio": 1.2, "class_shares": 0.05, "classes_missing": 0}
STUDENTS = {1: ["--student", "onestep"]} | {k: ["--student", "fewstep", "--set", f"student.steps={k}"] for k in (2, 4)}
COMMON = ["trainer.steps=1600", "trainer.batch_size=128", "evaluation.samples=4000", "evaluation.draws=1", "teacher.examine=false"]
WEAK = ["--teacher", "flow", "--set", 'teacher.network={"name":"mlp","width":384,"depth":4}', "--set", "teacher.training.steps=1000"]


def of_teacher(name: str, count: int, options: list[str]) -> list[str]:
    """Returns the options of a student of ``count`` evaluations of a good teacher, from those of the teacher's training."""
    data = options[2:]  # without the family
    return ["--teacher", str(teachers.folder_of(name) / "teacher"), *data, *STUDENTS[count]]


def cells(mnist: Path, steps: list[int]) -> list[tuple[str, int, int, list[str]]]:
    """Returns (teacher, evaluations, seed, options)."""
    found, all_teachers = [], teachers.teachers(mnist)
    for count in steps:
        for name, options in all_teachers.items():
            for seed in (0, 1, 2) if name == "flow" and count == 1 else (0,):
                found.append((name, count, seed, of_teacher(name, count, options)))
    data = all_teachers["flow"][2:]
    for name, more in (("flow, weak", []), ("flow, weak, recipe correct", ["--recipe", "correct"])):
        found.append((name, 1, 0, [*WEAK, *data, *more]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4], choices=list(STUDENTS))
    parser.add_argument("--only", nargs="+")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    all_families = {name: options[1] for name, options in teachers.teachers(given.mnist).items()}
    for name, count, seed, options in cells(given.mnist, given.steps):
        if given.only and name not in given.only:
            continue
        settings = [part for setting in COMMON for part in ("--set", setting)]
        key = {"benchmark": "students", "options": [Path(word).name for word in options], "name": name, "seed": seed, "common": COMMON}
        family = all_families.get(name, "flow")
        key |= {"defaults": defaults("flow") + start_of(family), "recipe": recipe("correct"), "of": [teachers.STEPS, teachers.COMMON]}
        folder = CACHE / f"students-{'-'.join(name.replace(',', '').split())}-{count}-{seed}"
        run = [*options, *settings, "--seed", str(seed)]
        row = {"teacher of": name, "evaluations": count, "seed": seed, **cell(key, lambda o=run, f=folder: distilled(o, f, SHOWN))}
        student, teacher = row["student"], row["teacher"]
        row["ratio"] = student["frechet"] / teacher["frechet"]
        row["within"] = all(value <= BOUNDS[key] for key, value in (("ratio", row["ratio"]), *student.items()) if key in BOUNDS)
        rows.append(row)
        print(
            f"{name:28} {count} evaluations, seed {seed}  student {student['frechet']:.3f}  teacher {teacher['frechet']:.3f} "
            f"({teacher['nfe']})  held-out {row['held_out']['frechet']:.3f}  raw {student['frechet_raw']:.2f} "
            f"{teacher['frechet_raw']:.2f}  ratio {row['ratio']:.2f}  shares {student['class_shares']:.3f} "
            f"{teacher['class_shares']:.3f}  {row['seconds_in_all']:.0f} s",
            flush=True,
        )
    save("students", merged("students", rows, "teacher of", "evaluations", "seed"), bounds=BOUNDS)


if __name__ == "__main__":
    main()
