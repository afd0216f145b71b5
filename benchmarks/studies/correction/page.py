"""Writes the numbers of docs/research/correction.md between their marks, from the committed results.

python -m benchmarks.studies.correction.page
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import STUDIES, filled, interval, table
from matchlib.io import read_json

BOUND, GOAL = 0.6, 0.25  # of the excess: what was asked for, and what was hoped for
NAMES = {
    "teacher": "teacher",
    "uid": "UID",
    "correct": "**recipe**",
    "further": "teacher trained on, then UID",
    "refined": "UID, teacher learns too",
    "head": "UID + discriminator head",
    "uid longer": "UID, as long",
    "published": "RealUID, alpha .94, beta .96",
    "then": "half UID, half recipe",
}
PAGE = Path(__file__).resolve().parents[3] / "docs" / "research" / "correction.md"


def _pm(values: list[float], digits: int = 2) -> str:
    """The mean with its interval, or all values, if they are one or two: an interval of two is wider than what it is about."""
    if len(values) < 3:
        return ", ".join(f"{x:.{digits}f}" for x in values)
    mean, half = interval(values)
    return f"{mean:.{digits}f} ± {half:.{digits}f}"


def gaussian() -> str:
    """Families down, alpha across."""
    rows = read_json(STUDIES / "correction-gaussian.json")["rows"]
    alphas = sorted({row["alpha"] for row in rows})
    lines = []
    for family in dict.fromkeys(row["family"] for row in rows):
        own = {row["alpha"]: row["ratio"] for row in rows if row["family"] == family}
        lines.append([f"`{family}`", *(f"{own[alpha]:.3f}" for alpha in alphas)])
    return table(["family", *(f"alpha = {alpha:g}" for alpha in alphas)], lines)


def excesses(record: dict[str, Any]) -> dict[tuple[str, str], list[float]]:
    """Returns the excess of every seed by kind of teacher and method."""
    found: dict[tuple[str, str], list[float]] = {}
    key = record.get("key", "frechet")
    for row in record["rows"]:
        if "stopped" not in row:
            found.setdefault((row["kind"], row["method"]), []).append(row[key] - record["floor"][key])
    return found


def _digits(record: dict[str, Any]) -> int:
    """Decimals that are told: Wasserstein distances in the plane are ten times smaller than Frechet distances of features."""
    return 2 if record.get("key", "frechet") == "frechet" else 3


def _mean(record: dict[str, Any], kind: str, method: str, key: str) -> float:
    return float(np.mean([row[key] for row in record["rows"] if (row["kind"], row["method"]) == (kind, method)]))


def weak(record: dict[str, Any]) -> str:
    """Kinds of teacher down; excess of teacher, UID and the recipe, their ratios, what else tells, and the limit of alpha."""
    found, lines, compared = excesses(record), [], ("teacher", "uid", "correct")
    raw, digits = "frechet_raw" in record["floor"], _digits(record)
    limit = any(method == "limit" for _, method in found)
    for kind in dict.fromkeys(kind for kind, method in found if method == "correct"):
        own = {method: found[kind, method] for method in compared if (kind, method) in found}
        mean = {method: float(np.mean(values)) for method, values in own.items()}
        shares = [f"{mean['correct'] / mean[m]:.2f}" if mean.get(m, 0.0) > 5 * 10.0**-digits else "-" for m in ("uid", "teacher")]
        rest = [", ".join(f"{_mean(record, kind, m, 'frechet_raw'):.1f}" for m in own)] if raw else []
        rest += [", ".join(f"{_mean(record, kind, m, key):.2f}" for m in own if m != "teacher") for key in ("coverage", "nearest_ratio")]
        rest += [_pm(found[kind, "limit"], digits) if (kind, "limit") in found else "-"] if limit else []
        shown = [_pm(own[m], digits) if m in own else "-" for m in compared]
        lines.append([kind, str(len(own["correct"])), *shown, *shares, *rest])
    head = ["teacher", "seeds", "its excess", "UID", "**recipe**", "recipe / UID", "recipe / teacher"]
    head += [*(["raw: teacher, UID, recipe"] if raw else []), "coverage: UID, recipe", "nearest: UID, recipe"]
    return table([*head, *(["alpha = ∞"] if limit else [])], lines)


def verdict(record: dict[str, Any]) -> str:
    """Says in how many kinds the recipe keeps at most 0.6 of the excess, and how it does with a good teacher, seed by seed."""
    found = excesses(record)
    mean = {key: float(np.mean(values)) for key, values in found.items()}
    kinds = [kind for kind, method in found if method == "correct" and kind != "good" and (kind, "uid") in found]
    wrong = [kind for kind in kinds if min(mean[kind, "uid"], mean[kind, "teacher"]) > 0]  # there is something to correct

    def met(bound: float) -> int:
        return sum(all(mean[kind, "correct"] <= bound * mean[kind, other] for other in ("uid", "teacher")) for kind in wrong)

    others = ", ".join(kind for kind in kinds if kind not in wrong)
    aside = f" (not counted, since the teacher or UID is as near as held-out data: {others})" if others else ""
    said = f"At most {BOUND} of the excess of both UID and the teacher in {met(BOUND)} of {len(wrong)} kinds, at most {GOAL} in {met(GOAL)}"
    said += f"{aside}."
    if ("good", "correct") in found:
        own = {(row["method"], row["seed"]): row[record.get("key", "frechet")] for row in record["rows"] if row["kind"] == "good"}
        apart = [value - own["uid", seed] for (method, seed), value in own.items() if method == "correct" and ("uid", seed) in own]
        said += f" A good teacher: recipe less UID, seed by seed, {_pm(apart, _digits(record))}."
    if ("good", "uid") in mean and "frechet_raw" in record["floor"]:
        said += " " + _from_the_best(record, kinds, mean)
    if ("good", "default") in found:
        said += f" The default of `distill` (alpha = 2, the family's own learning rates) ends at {_pm(found['good', 'default'])} there."
    return said


def _from_the_best(record: dict[str, Any], kinds: list[str], mean: dict[tuple[str, str], float]) -> str:
    """Says what is kept of the teacher's error if zero is a good teacher's UID student, and in raw values over those of held-out data."""

    def shares(origin: float, of: dict[tuple[str, str], float]) -> str:
        kept = [(of[kind, "correct"] - origin) / (of[kind, "teacher"] - origin) for kind in kinds]
        return f"{min(kept):.2f} to {max(kept):.2f}"

    raw = {(kind, method): _mean(record, kind, method, "frechet_raw") for kind in kinds for method in ("teacher", "correct")}
    least = record["floor"]["frechet_raw"]
    return (
        "With zero at the UID student of the good teacher, instead of held-out data, the recipe keeps "
        f"{shares(mean['good', 'uid'], mean)} of the teacher's excess; "
        f"in raw values, with zero at held-out data ({least:.2f}), {shares(least, raw)}."
    )


def followed() -> str:
    """Families and kinds of teacher down; UID with its own critic rate and with the recipe's, and how often the alarm rang."""
    lines = []
    for family in ("flow", "interpolant", "diffusion"):
        record, table_ = (read_json(STUDIES / f"correction-{name}-{family}.json") for name in ("followed", "digits"))
        rows = record["rows"] + [row for row in table_["rows"] if row["method"] == "uid"]
        for kind in dict.fromkeys(row["kind"] for row in record["rows"]):
            seeds = {row["seed"] for row in record["rows"]}
            own = {
                m: [row for row in rows if (row["kind"], row["method"]) == (kind, m) and row["seed"] in seeds]
                for m in ("uid", "uid followed")
            }
            excess = excesses({**record, "rows": [row for each in own.values() for row in each]})
            rang = [str(sum(row["alarms"] > 0 for row in own[m])) for m in own]
            lines.append([f"`{family}`", kind, *(_one(excess[kind, m]) for m in own), ", ".join(rang)])
    return table(["family", "teacher", "UID, seed by seed", "UID, critic twice as fast", "runs that rang"], lines)


def others() -> str:
    """Kinds of teacher down; every method that was tried on at least one of them, at the seeds that it was tried with."""
    record, digits = (read_json(STUDIES / f"correction-{name}.json") for name in ("others", "digits-flow"))
    rows = [row for row in digits["rows"] if row["kind"] != "good"]
    seeds = {row["seed"] for row in record["rows"]}
    rows = [row for row in rows if row["seed"] in seeds and row["method"] in ("teacher", "uid", "correct")]
    rows = sorted(rows, key=lambda row: row["seed"]) + [
        row for row in record["rows"] if row["method"] != "teacher" and row["kind"] != "good"
    ]
    found = excesses({**digits, "rows": rows})
    methods, kinds = (list(dict.fromkeys(row[name] for row in rows)) for name in ("method", "kind"))
    stopped = {(row["kind"], row["method"]) for row in rows if "stopped" in row}
    shown = {key: [*map("{:.2f}".format, found.get(key, [])), *(["stopped"] if key in stopped else [])] for key in {*found, *stopped}}
    lines = [[kind, *(", ".join(shown.get((kind, method), ["-"])) for method in methods)] for kind in kinds]
    return table(["teacher", *(NAMES.get(method, method) for method in methods)], lines)


def _one(values: list[float]) -> str:
    """All values, since two or three have no interval worth its name."""
    return ", ".join(f"{x:.2f}" for x in values)


def alone() -> str:
    """Methods down."""
    record = read_json(STUDIES / "correction-alone.json")
    found: dict[str, list[dict[str, Any]]] = {}
    for row in record["rows"]:
        found.setdefault(row["method"], []).append(row)
    return table(
        ["teacher and method", "excess", "raw", "coverage", "nearest"],
        [
            [
                name,
                _one([row["frechet"] - record["floor"]["frechet"] for row in rows]),
                *(_one([row[key] for row in rows]) for key in ("frechet_raw", "coverage", "nearest_ratio")),
            ]
            for name, rows in found.items()
        ],
    )


def memorising() -> str:
    """Real digits seen, steps and alpha down."""
    record = read_json(STUDIES / "correction-memorising.json")
    lines = [
        [
            f"{row['seen']:,}",
            f"{row['steps']:,}",
            f"{float(row['alpha']):g}".replace("inf", "∞"),
            f"{1 - 1 / float(row['alpha']):.2f}",
            *(f"{row[key]:.2f}" for key in ("copies", "nearest_ratio")),
            f"{row['frechet'] - record['floor']['frechet']:.2f}",
            f"{row['coverage']:.2f}",
        ]
        for row in record["rows"]
    ]
    return table(["real digits seen", "steps", "alpha", "1 - 1/alpha", "copies", "nearest", "excess", "coverage"], lines)


def tuning() -> str:
    """Settings down, the two teachers across."""
    record = read_json(STUDIES / "correction-tuning.json")
    found: dict[str, dict[str, str]] = {}
    for row in record["rows"]:
        shown = _wide(row["frechet"] - record["floor"]["frechet"])
        found.setdefault(row["settings"], {})[row.get("kind", "stopped early")] = f"{shown} ({row['frechet_raw']:.3g})"
    kinds = list(dict.fromkeys(row.get("kind", "stopped early") for row in record["rows"]))
    return table(["settings", *kinds], [[name, *(own.get(kind, "-") for kind in kinds)] for name, own in found.items()])


def _wide(x: float) -> str:
    """Also of runs that fell apart."""
    return f"{x:.2f}" if x < 1e3 else f"{x:.0e}"


def surges() -> str:
    """The excess of every seed."""
    record = read_json(STUDIES / "correction-surges.json")
    rows = sorted((row for row in record["rows"] if row["method"] == "uid unlimited"), key=lambda row: row["seed"])
    return ", ".join("stopped" if "stopped" in row else _wide(row["frechet"] - record["floor"]["frechet"]) for row in rows)


def times() -> str:
    """Families down; excess, raw distance and coverage at the times before and at those of today."""
    record = read_json(STUDIES / "correction-times.json")
    lines = [
        [
            f"`{row['family']}`",
            row["times"],
            f"{row['frechet'] - record['floor']['frechet']:.2f}",
            *(f"{row[key]:.2f}" for key in ("frechet_raw", "coverage")),
        ]
        for row in record["rows"]
    ]
    return table(["family", "times", "excess", "raw", "coverage"], lines)


def numbers() -> dict[str, str]:
    """Returns what stands between the marks."""
    found = {"gaussian": gaussian(), "tuning": tuning(), "followed": followed()}
    for path in sorted(STUDIES.glob("correction-*-*.json")):
        name = path.stem.removeprefix("correction-")
        found |= {name: weak(read_json(path)), f"verdict-{name}": verdict(read_json(path))}
    made = {"surges": surges, "times": times, "alone": alone, "memorising": memorising, "others": others}
    found |= {name: make() for name, make in made.items() if (STUDIES / f"correction-{name}.json").exists()}
    return {name: value for name, value in found.items() if f"<!-- {name} -->" in PAGE.read_text()}


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), numbers()))
    print(f"wrote {PAGE}")
