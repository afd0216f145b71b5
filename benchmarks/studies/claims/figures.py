"""Draws the figures of docs/research/what-realuid-does.md from the committed results, and writes its numbers between their marks.

python -m benchmarks.studies.claims.figures
"""

# ruff: noqa: E501 (sentences of a page)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.record import STUDIES, filled, table

NOTES = Path(__file__).resolve().parents[3] / "docs" / "research"
IMAGES, PAGE = NOTES / "images", NOTES / "what-realuid-does.md"
SHARE = "share of the teacher's error"


def rows_of(name: str) -> list[dict[str, Any]]:
    return json.loads((STUDIES / f"{name}.json").read_text())["rows"]


def extrapolation() -> None:
    """Error of the student over that of the teacher, against alpha = beta, every family."""
    rows = [
        row for row in rows_of("claims-wrong-teacher") if row["space"] is None and row["alpha"] == row["beta"] and row["alpha"] != "inf"
    ]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    alphas = np.geomspace(0.5, 32, 50)
    for axis, teacher, title in ((axes[0], [2.2, 1.0], "teacher's mean is wrong"), (axes[1], [2.0, 1.3], "teacher's spread is wrong")):
        axis.loglog(alphas, 1 / alphas, color="0.7", label="1/alpha")
        for marker, family in zip("osd^v", dict.fromkeys(row["family"] for row in rows), strict=False):
            mine = sorted(
                (row["alpha"], row[SHARE])
                for row in rows
                if row["family"] == family and row["teacher"] == teacher and row["gamma"] in (None, 0.5)
            )
            if mine:
                axis.loglog(*zip(*mine, strict=True), marker, ms=5, alpha=0.7, label=family)
        axis.axvline(1, color="0.85", lw=0.8)
        axis.set(title=title, xlabel="alpha = beta")
        axis.legend(fontsize=8)
    axes[0].set_ylabel("student's error / teacher's error")
    figure.tight_layout()
    figure.savefig(IMAGES / "claims-extrapolation.png", dpi=110)


def map_of_settings() -> None:
    """The same share over (alpha, beta) at gamma = 1/2, data N(0, 1), for two kinds of error and three spaces."""
    rows = [row for row in rows_of("claims-wrong-teacher") if row["space"] and row["real"] == [0.0, 1.0] and row["gamma"] == 0.5]
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), sharex=True, sharey=True)
    for line, teacher, what in ((axes[0], [0.2, 1.0], "mean"), (axes[1], [0.0, 1.3], "spread")):
        for axis, space in zip(line, ("velocity", "data", "score"), strict=True):
            mine = [row for row in rows if row["space"] == space and row["teacher"] == teacher]
            ticks = sorted({row["alpha"] for row in mine})
            table = np.full((len(ticks), len(ticks)), np.nan)
            for row in mine:
                table[ticks.index(row["beta"]), ticks.index(row["alpha"])] = row[SHARE]
            image = axis.imshow(np.abs(table), origin="lower", cmap="RdYlGn_r", vmin=0, vmax=2)
            for i, j in np.ndindex(table.shape):
                axis.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", fontsize=7)
            axis.set_xticks(range(len(ticks)), [f"{x:g}" for x in ticks])
            axis.set_yticks(range(len(ticks)), [f"{x:g}" for x in ticks])
            axis.set_title(f"wrong {what}, {space} space", fontsize=10)
    for axis in axes[1]:
        axis.set_xlabel("alpha")
    for axis in axes[:, 0]:
        axis.set_ylabel("beta")
    figure.colorbar(image, ax=axes, shrink=0.7, label="student's error / teacher's error")
    figure.savefig(IMAGES / "claims-map.png", dpi=110, bbox_inches="tight")


def sid() -> None:
    """Slope of SiD's student loss over that of half the divergence."""
    rows = [
        row for row in rows_of("claims-sid") if row["moved"] == "spread" and row["by"] < 3 and row["slope over that of D/2"] is not None
    ]
    figure, axis = plt.subplots(figsize=(5.5, 3.4))
    for a in (0.5, 1.0, 1.2):
        mine = sorted((1 + row["by"], row["slope over that of D/2"]) for row in rows if row["a"] == a)
        axis.plot(*zip(*mine, strict=True), "o-", label=f"a = {a:g}")
    axis.axvline(1, color="0.85", lw=0.8)
    axis.set(
        xlabel="student's spread / data's spread", ylabel="slope / slope of D/2", title="SiD: the direction is the same, the size is not"
    )
    axis.legend()
    figure.tight_layout()
    figure.savefig(IMAGES / "claims-sid.png", dpi=110)


def _setting(row: dict[str, Any]) -> str:
    return ", ".join("-" if row[key] is None else f"{float(row[key]):g}" for key in ("alpha", "beta", "gamma"))


def _one(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def _scores(row: dict[str, float]) -> list[str]:
    return [f"{row[key]:.2f}" for key in ("frechet", "frechet_raw", "coverage", "nearest_ratio")]


def numbers() -> dict[str, str]:
    """Returns what stands between each pair of marks."""
    spaces, noise, wrong, trained = (rows_of(f"claims-{name}") for name in ("spaces", "noise", "wrong-teacher", "trained"))
    unique, sids = rows_of("claims-uniqueness"), [row for row in rows_of("claims-sid") if row["moved"] == "spread"]
    fits = [row for row in unique if row["source"] == "independent Gaussian"]
    ended, starts = (sum(row[key] for row in fits) for key in ("ended at a zero", "starts"))
    far = max(row["largest distance there"] for row in fits)
    other = [row for row in unique if row["source"] != "independent Gaussian"]
    pairs = "; ".join(
        f"{row['family']} ({row['space']}), spread {row['student']['std']:g} and correlation {row['student']['correlation']:.2f}, "
        f"value {row['value at t = .4']:.0e} at t = .4 but {row['value at other times']['0.2']:.3f} at .2 and {row['value at other times']['0.7']:.3f} at .7"
        for row in other
    )
    real = other[0]["real"]
    shown = [(1.0, 1.0), (0.9, 0.9), (2.0, 2.0), (0.92, 0.94), (0.98, 0.96), (2.0, 1.5)]
    paper = []
    for a, b, g in [
        (0.92, 0.94, None),
        (0.98, 0.96, None),
        (0.92, 0.86, None),
        (0.96, 0.92, None),
        (0.9, 0.9, None),
        (2.0, 2.0, 0.5),
        (1.0, 1.25, 0.5),
        (2.0, 1.6, 0.5),
        (3.0, 0.6, 0.5),
    ]:
        cells = [
            _one(wrong, space=space, alpha=a, beta=b, gamma=g, real=[0.0, 1.0], teacher=teacher)[SHARE]
            for teacher in ([0.2, 1.0], [0.0, 1.3])
            for space in ("velocity", "data", "score")
        ]
        paper.append([_setting({"alpha": a, "beta": b, "gamma": g}), *(f"{x:.2f}" for x in cells)])
    off = ", ".join(
        f"{_one(wrong, space=None, alpha=a, beta=b, gamma=None, family='flow', teacher=[2.2, 1.0])[SHARE]:.2f} for ({a:g}, {b:g})"
        for a, b in ((0.92, 0.94), (0.98, 0.96), (0.92, 0.86), (0.96, 0.92))
    )
    limit = [abs(_one(wrong, alpha="inf", teacher=teacher)[SHARE]) for teacher in ([2.2, 1.0], [2.0, 1.3])]
    slopes = {(row["a"], row["by"]): row["slope over that of D/2"] for row in sids}
    return {
        "one-sided": f"{ended} of {starts} fits ended at a zero, and there the total variation distance to the real distribution was at most {far:.1e}.",
        "paired": f"with the real distribution N({real['mean']:g}, {real['std']:g}²) and correlation {real['correlation']:.2f}, another joint distribution has the "
        f"very same field at t = .4: {pairs}.",
        "spaces": table(
            ["alpha, beta, gamma", "space", "value over A² times that in velocity space", "value after moving all data by 3"],
            [
                [
                    _setting(row),
                    row["space"],
                    f"{row['over A^2 times that in velocity']:.3f}",
                    f"times {row['after moving by 3, relative']:.3f}",
                ]
                for row in spaces
                if ((row["alpha"], row["beta"]) in shown and row["space"] in ("data", "score"))
                or (row["alpha"], row["beta"], row["space"]) == (0.92, 0.94, "velocity")
            ],
        ),
        "paper": table(
            ["alpha, beta, gamma", "wrong mean: velocity", "data", "score", "wrong spread: velocity", "data", "score"],
            paper,
        ),
        "off-centre": off,
        "limit": f"{max(limit):.0e}" if max(limit) > 1e-6 else "less than a millionth",
        "noise": table(
            ["alpha, beta, gamma", "noise, measured", "by theory", "pull, measured", "beta²", "noise per pull", "and with shared draws"],
            [
                [
                    _setting(row),
                    f"{row['noise']:.2f}",
                    f"{row['noise by theory']:.2f}",
                    f"{row['pull']:.2f}",
                    f"{row['beta'] ** 2:.2f}",
                    f"{row['noise per pull']:.2f}",
                    f"{row['noise per pull, shared']:.2f}",
                ]
                for row in noise
            ],
        ),
        "trained": table(
            ["options", "student: features", "raw", "coverage", "nearest_ratio"],
            [
                *([f"`{row['options']}`", *_scores(row["student"])] for row in trained),
                ["teacher, 50 evaluations", *_scores(trained[0]["teacher"])],
                ["held-out data", *_scores(trained[0]["held_out"])],
            ],
        ),
        "noise-at-4": f"{_one(noise, alpha=4.0)['noise per pull, shared']:.1f}",
        "sid": f"with a = 1.2, {slopes[1.2, -0.5]:.2f} of it for a student of half the spread, {slopes[1.2, 0.1]:.2f} at 1.1, {slopes[1.2, 1.0]:.2f} at twice and {slopes[1.2, 9.0]:.2f} at ten times",
    }


def refreshed(text: str) -> str:
    """Returns the page with every number between marks as the results have it."""
    return filled(text, numbers())


if __name__ == "__main__":
    extrapolation()
    map_of_settings()
    sid()
    PAGE.write_text(refreshed(PAGE.read_text()))
    print(f"wrote {IMAGES}/claims-*.png and {PAGE}")
