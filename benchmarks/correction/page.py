"""Writes the numbers of docs/correction.md between their marks, from the committed results.

python benchmarks/correction/page.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # record.py

from record import RESULTS, filled, table

from matchlib.training.files import read_json

BOUND, GOAL = 0.6, 0.25  # of the excess: what was asked for, and what was hoped for
NAMES = {
    "teacher": "teacher",
    "uid": "UID",
    "correct": "**recipe**",
    "further": "teacher trained on, then UID",
    "limit": "alpha = inf",
    "published": "alpha .94, beta .96",
}
PAGE = Path(__file__).resolve().parents[2] / "docs" / "correction.md"


def interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean and half the width of its 95% confidence interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(half)


def _pm(values: list[float]) -> str:
    mean, half = interval(values)
    return f"{mean:.2f}" if len(values) == 1 else f"{mean:.2f} ± {half:.2f}"


def gaussian() -> str:
    """Families down, alpha across."""
    rows = read_json(RESULTS / "correction-gaussian.json")["rows"]
    alphas = sorted({row["alpha"] for row in rows})
    lines = []
    for family in dict.fromkeys(row["family"] for row in rows):
        own = {row["alpha"]: row["ratio"] for row in rows if row["family"] == family}
        lines.append([f"`{family}`", *(f"{own[alpha]:.3f}" for alpha in alphas)])
    return table(["family", *(f"alpha = {alpha:g}" for alpha in alphas)], lines)


def excesses(record: dict[str, Any], key: str = "frechet") -> dict[tuple[str, str], list[float]]:
    """Returns the excess of every seed by kind of teacher and method."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in record["rows"]:
        found.setdefault((row["kind"], row["method"]), []).append(row[key] - record["floor"][key])
    return found


def digits(record: dict[str, Any]) -> str:
    """Kinds of teacher down; excess of teacher, UID and the recipe, their ratios, and what else tells."""
    found = excesses(record)
    lines = []
    for kind in dict.fromkeys(kind for kind, _ in found):
        own = {method: found[kind, method] for method in ("teacher", "uid", "correct")}
        mean = {method: float(np.mean(values)) for method, values in own.items()}
        rows = [row for row in record["rows"] if (row["kind"], row["method"]) == (kind, "correct")]
        raw = [np.mean([row["frechet_raw"] for row in record["rows"] if (row["kind"], row["method"]) == (kind, m)]) for m in own]
        shares = [f"{mean['correct'] / mean[m]:.2f}" if mean[m] > 0.05 else "-" for m in ("uid", "teacher")]
        rest = [f"{np.mean([row[key] for row in rows]):.2f}" for key in ("coverage", "nearest_ratio")]
        lines.append([kind, str(len(rows)), *(_pm(values) for values in own.values()), *shares, ", ".join(f"{x:.1f}" for x in raw), *rest])
    head = [
        "teacher",
        "seeds",
        "its excess",
        "UID",
        "**recipe**",
        "recipe / UID",
        "recipe / teacher",
        "raw: teacher, UID, recipe",
        "coverage",
    ]
    return table([*head, "nearest"], lines)


def verdict(record: dict[str, Any]) -> str:
    """Says in how many kinds the recipe keeps at most 0.6 of the excess, and how it does with a good teacher, seed by seed."""
    found = excesses(record)
    mean = {key: float(np.mean(values)) for key, values in found.items()}
    weak = [kind for kind in dict.fromkeys(kind for kind, _ in found) if kind != "good"]
    met = [kind for kind in weak if all(mean[kind, "correct"] <= BOUND * mean[kind, other] for other in ("uid", "teacher"))]
    goal = [kind for kind in weak if all(mean[kind, "correct"] <= GOAL * mean[kind, other] for other in ("uid", "teacher"))]
    said = f"At most {BOUND} of the excess of both UID and the teacher in {len(met)} of {len(weak)} kinds, at most {GOAL} in {len(goal)}."
    if ("good", "correct") in found:
        apart = [a - b for a, b in zip(found["good", "correct"], found["good", "uid"], strict=True)]
        said += f" A good teacher: recipe less UID, seed by seed, {_pm(apart)}."
    if ("good", "default") in found:
        ends = _pm(found["good", "default"])
        said += f" The default of `distill` (alpha = 2, the family's own rates; batches of 128, as everything here) ends at {ends} there."
    return said


def others(record: dict[str, Any]) -> str:
    """Kinds of teacher down; every method that was tried on at least one of them."""
    found = excesses(record)
    methods = list(dict.fromkeys(method for _, method in found))
    kinds = [kind for kind in dict.fromkeys(kind for kind, _ in found) if kind != "good"]
    lines = [[kind, *(_pm(found[kind, method]) if (kind, method) in found else "-" for method in methods)] for kind in kinds]
    return table(["teacher", *(NAMES.get(method, method) for method in methods)], lines)


def tuning() -> str:
    """Settings down."""
    record = read_json(RESULTS / "correction-tuning.json")
    rows = [(row["settings"], row["frechet"] - record["floor"]["frechet"], row["frechet_raw"]) for row in record["rows"]]
    lines = [[name, *(f"{x:.2f}" if x < 1e3 else f"{x:.0e}" for x in numbers)] for name, *numbers in rows]
    return table(["settings", "excess", "raw"], lines)


def numbers() -> dict[str, str]:
    """Returns what stands between the marks."""
    found = {"gaussian": gaussian(), "tuning": tuning()}
    for path in sorted(RESULTS.glob("correction-digits-*.json")):
        record, family = read_json(path), path.stem.rpartition("-")[2]
        found |= {f"digits-{family}": digits(record), f"verdict-{family}": verdict(record)}
    path = RESULTS / "correction-others.json"
    return found | ({"others": others(read_json(path))} if path.exists() else {})


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), numbers()))
    print(f"wrote {PAGE}")
