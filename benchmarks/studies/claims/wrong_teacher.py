"""Where a student ends under a wrong teacher, as a function of (alpha, beta, gamma): exact, in one Gaussian dimension.

    python -m benchmarks.studies.claims.wrong_teacher      about 15 minutes on one core; cells are cached

Data N(2, 1). The teacher is the exact field of N(2.2, 1) (its mean is wrong) or of N(2, 1.3) (its spread is). The student is Gaussian; the
critic is the best one; the value is integrated by quadrature and minimised by L-BFGS.
"""

from __future__ import annotations

from benchmarks.record import STUDIES, cell, save
from benchmarks.studies.claims.common import FAMILIES, end_of, model_of, realuid

REAL = (2.0, 1.0)
CENTRED = (0.0, 1.0)  # data as matchlib normalises them
MEAN, SPREAD = (2.2, 1.0), (2.0, 1.3)
PAPER = [
    (1.0, 1.0, None),
    (0.92, 0.94, None),
    (0.92, 0.86, None),
    (0.98, 0.96, None),
    (0.96, 0.92, None),
    (0.9, 0.9, None),
    (0.5, 0.5, None),
]
BEYOND = [(a, a, 0.5) for a in (1.0, 1.5, 2.0, 4.0, 8.0, 32.0)] + [(2.0, 2.0, g) for g in (0.1, 0.25, 0.75, 0.9)]
LIMIT = [(float("inf"), float("inf"), 0.5)]
GRID = [(a, b, 0.5) for a in (0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 3.0) for b in (0.6, 0.8, 1.0, 1.25, 1.6, 2.0, 3.0)]


def row(
    family: str,
    setting: tuple[float, float, float | None],
    teacher: tuple[float, float],
    space: str | None = None,
    real: tuple[float, float] = REAL,
) -> dict:
    key = {"claim": "wrong teacher", "family": family, "setting": [str(x) for x in setting], "teacher": teacher, "space": space, "v": 1}
    if real != REAL:
        key["real"] = real
    found = cell(
        key, lambda: dict(zip(("mean", "std", "value"), end_of(model_of(family, space), realuid(*setting), real, teacher), strict=True))
    )
    wrong = teacher[0] - real[0], teacher[1] - real[1]
    error = (found["mean"] - real[0]) / wrong[0] if wrong[0] else (found["std"] - real[1]) / wrong[1]
    line = {
        "family": family,
        "space": space,
        "alpha": setting[0],
        "beta": setting[1],
        "gamma": setting[2],
        "real": list(real),
        "teacher": list(teacher),
    }
    print(line, round(error, 4), flush=True)
    return {**line, **found, "share of the teacher's error": error}


def main() -> None:
    rows = [row("flow", setting, teacher) for teacher in (MEAN, SPREAD) for setting in PAPER + BEYOND + LIMIT]
    rows += [row(family, (a, a, 0.5), MEAN) for family in FAMILIES for a in (0.5, 1.0, 1.5, 2.0, 4.0, 8.0)]
    for space in ("velocity", "data", "score"):
        rows += [row("flow", setting, teacher, space, CENTRED) for teacher in ((0.2, 1.0), (0.0, 1.3)) for setting in GRID]
    spaces = ("velocity", "data", "score")
    rows += [row("flow", s, teacher, space, CENTRED) for space in spaces for teacher in ((0.2, 1.0), (0.0, 1.3)) for s in PAPER[1:6]]
    save("claims-wrong-teacher", rows, folder=STUDIES)


if __name__ == "__main__":
    main()
