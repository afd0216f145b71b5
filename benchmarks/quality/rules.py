"""Is the default value of a setting a good one? Students that differ in one setting, around what the rules say.

    python -m benchmarks.quality.rules [--mnist MNIST.npz] [--only rates start ...]

``critic``: critic steps before each student step, the sum of both kept. ``rates``: both step sizes times a factor, for networks 192 and 768
wide. ``start``: where students of a DDPM's path start, with the data's axes and
from plain noise. ``batch`` and ``average``: batch size and decay of the averaged weights. One plot
each; all other settings are the defaults. MNIST of ``critic`` is distilled from the teacher of ``benchmarks/quality/teachers.py``, which
comes first. Cells are cached.
Comparison times have a benchmark of their own (``benchmarks/quality/times.py``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.quality import students, teachers
from benchmarks.quality.defaults import LARGE, small_mnist
from benchmarks.record import CACHE, RESULTS, cell, defaults, distilled, save
from matchlib.registry import families

SHOWN = ("nfe", "frechet", "frechet_raw", "coverage", "nearest_ratio")
METRICS = "evaluation.metrics=[frechet, frechet-raw, coverage, nearest-ratio]"
DIGITS = ["--teacher", "flow", "--data", "digits"]
VP = ["--teacher", "diffusion-vp", "--data", "digits"]
UNLABELLED = ["--teacher", "diffusion-vp", "--data", "digits", "--set", "data.labels=false"]


def sweeps(mnist: Path | None) -> dict[str, tuple[str, dict[str, list[str]], list[tuple[Any, list[str]]]]]:
    """Returns (name of the axis, options of each set of cells, values with their settings) by rule; the default has no settings."""
    rates = [(k, [f"trainer.student_lr_scale={k}", f"trainer.critic_lr_scale={k}"] if k != 1 else []) for k in (0.2, 0.5, 1.0, 2.0, 5.0)]
    wide = (
        [] if mnist is None else ["--teacher", "flow", "--data", str(small_mnist(mnist)), *(x for item in LARGE for x in ("--set", item))]
    )
    start = [(t, [] if t is None else [f"student.t_start={t}"]) for t in (0.2, None, 0.5, 0.7, 1.0)]
    critic = [(n, [f"trainer.critic_steps={n}"] if n != 1 else []) for n in (1, 2, 3, 5)]
    good = {} if mnist is None else {"MNIST, labels": of_good_teacher(mnist)}
    return {
        "critic": ("trainer.critic_steps", {"digits": DIGITS, "digits, VP, no labels": UNLABELLED} | good, critic),
        "rates": ("step sizes / defaults", {"digits, width 192": DIGITS} | ({"MNIST, width 768": wide} if wide else {}), rates),
        "start": ("student.t_start", {"digits, VP": VP, "digits, VP, from plain noise": [*VP, "--set", "student.axes=0"]}, start),
        "batch": (
            "trainer.batch_size",
            {"digits": DIGITS},
            [(n, [f"trainer.batch_size={n}"] if n != 256 else []) for n in (32, 64, 128, 256, 512)],
        ),
        "average": (
            "1 - trainer.ema",
            {"digits": DIGITS},
            [(k, [f"trainer.ema={1 - k:g}"] if k != 0.001 else []) for k in (0.1, 0.01, 0.001, 0.0003)],
        ),
    }


def of_good_teacher(mnist: Path) -> list[str]:
    """Returns the options of the student of ``benchmarks/quality/students.py`` with the teacher of flow."""
    options = students.of_teacher("flow", 1, teachers.teachers(mnist)["flow"])
    return [*options, *(part for setting in students.COMMON for part in ("--set", setting))]


def draw(rule: str, axis: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Draws ratios of distances against the setting."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row["cells"] for row in rows):
        found = sorted((row["value"], row["ratio"], row["ratio_raw"]) for row in rows if row["cells"] == name)
        (line,) = axes.plot([x for x, _, _ in found], [y for _, y, _ in found], marker="o", label=name)
        axes.plot([x for x, _, _ in found], [y for _, _, y in found], marker="x", linestyle=":", color=line.get_color())
    for value in {row["value"] for row in rows if row["default"]}:
        axes.axvline(value, color="grey", linestyle=":", linewidth=0.8)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_xscale("linear" if rule == "start" else "log")
    axes.set_yscale("log")
    axes.set_xlabel(axis)
    axes.set_ylabel("Frechet distance, student / teacher")
    axes.set_title("circles: features; crosses: raw values", fontsize=9)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--only", nargs="+")
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for rule, (axis, sets, values) in sweeps(given.mnist).items():
        if given.only and rule not in given.only:
            continue
        for name, options in sets.items():
            for value, settings in values:
                run = [*options, *(part for setting in [*settings, METRICS] for part in ("--set", setting))]
                key = {"benchmark": "rules", "options": [Path(word).name for word in run]}
                key["defaults"] = defaults(options[1] if options[1] in families else "flow")
                folder = CACHE / f"rules-{rule}-{'-'.join(name.replace(',', '').split())}-{value}"
                row = {"rule": rule, "cells": name, "value": value, "default": not settings}
                row |= cell(key, lambda o=run, f=folder: kept(o, f))
                row["value"] = row["t_start"] if value is None else value
                row["ratio"] = row["student"]["frechet"] / row["teacher"]["frechet"]
                row["ratio_raw"] = row["student"]["frechet_raw"] / row["teacher"]["frechet_raw"]
                rows.append(row)
                print(f"{rule:8} {name:20} {row['value']:<8.4g} ratio {row['ratio']:.2f} ({row['ratio_raw']:.2f})", flush=True)
        of_rule = [row for row in rows if row["rule"] == rule]
        draw(rule, axis, of_rule, RESULTS.parents[1] / "docs" / "images" / f"rule-{rule}.svg")
        save(f"rule-{rule}", of_rule)


def kept(options: list[str], folder: Path) -> dict[str, Any]:
    """Runs a cell, and returns where its student started, too."""
    from matchlib.io import read_json

    found = distilled(options, folder, SHOWN)
    return found | {"t_start": read_json(folder / "student" / "config.json").get("student", {}).get("t_start")}


if __name__ == "__main__":
    main()
