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


def tuning() -> str:
    """Settings down."""
    record = read_json(RESULTS / "correction-tuning.json")
    rows = [(row["settings"], row["frechet"] - record["floor"]["frechet"], row["frechet_raw"]) for row in record["rows"]]
    lines = [[name, *(f"{x:.2f}" if x < 1e3 else f"{x:.0e}" for x in numbers)] for name, *numbers in rows]
    return table(["settings", "excess", "raw"], lines)


def numbers() -> dict[str, str]:
    """Returns what stands between the marks."""
    found = {"gaussian": gaussian(), "tuning": tuning()}
    for family in ("flow",):
        found[f"digits-{family}"] = digits(read_json(RESULTS / f"correction-digits-{family}.json"))
    return found


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), numbers()))
    print(f"wrote {PAGE}")
