"""Writes the numbers of docs/speed.md between their marks, from the committed results.

python benchmarks/speed_page.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from record import RESULTS, filled, table

from matchlib.io import read_json

PAGE = Path(__file__).resolve().parents[1] / "docs" / "speed.md"


def _rows(name: str, what: str | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_json(RESULTS / f"{name}.json")["rows"]
    return [row for row in rows if what is None or row["what"] == what]


def _ratio(row: dict[str, Any], key: str) -> str:
    found = row.get(key)
    return "-" if found is None else f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def step() -> str:
    """Networks and batches down, ratios across."""
    pairs = ("matchlib / plain", "matchlib / by hand", "matchlib, compiled / plain", "matchlib, compiled / by hand, compiled")
    lines = [
        [
            row["case"],
            str(row["batch"]),
            f"{row['ms']['matchlib']:.0f}",
            *(_ratio(row, pair) for pair in pairs),
            f"{row['of peak']:.2f}",
            f"{row['gc.collect ms']:.0f}",
        ]
        for row in _rows("step")
    ]
    return table(["network", "batch", "ms", *pairs, "of matmul peak", "gc.collect, ms"], lines)


def scaling() -> str:
    """Milliseconds of a cycle."""
    lines = [[f"batch {row['batch']}", f"{row['weights']:,} weights", f"{row['ms']:.0f}"] for row in _rows("scaling", "batch")]
    lines += [[f"batch {row['batch']}", f"{row['weights']:,} weights", f"{row['ms']:.0f}"] for row in _rows("scaling", "weights")]
    lines += [
        [f"{row['processes']} of {row['parallel']}", f"batch {row['batch']}", f"{row['ms']:.0f} ({row['of one']:.2f} of one)"]
        for row in _rows("scaling", "processes")
    ]
    return table(["", "", "ms"], lines)


def sampling() -> str:
    """Ratios of seconds."""
    lines = [
        [row["case"], str(row["samples"]), f"{row['method']}, {row['nfe']}", _ratio(row, "matchlib / by hand")]
        for row in _rows("sampling", "speed")
    ]
    return table(["network", "samples", "method, evaluations", "matchlib / by hand"], lines)


def errors() -> str:
    """Evaluations and errors."""
    lines = [[row["method"], str(row["nfe"]), f"{row['error']:.2g}"] for row in _rows("sampling", "error")]
    return table(["method", "evaluations", "error"], lines)


def activations() -> str:
    """MiB of saved activations."""
    lines = [
        [
            row["network"],
            row["loss"],
            *(f"{row[way]:.1f}" for way in ("plain", "split", "split, checkpointing")),
            f"{row['split / plain']:.2f}",
            f"{max(row['gradients apart'].values()):.0e}",
        ]
        for row in _rows("memory", "activations")
    ]
    return table(["network", "loss", "plain", "split", "split, checkpointing", "split / plain", "gradients apart"], lines)


def plan() -> str:
    """Planned and measured MiB."""
    lines = [
        [
            row["network"],
            str(row["batch"]),
            ", ".join(f"{k}={v}" for k, v in row["engine"].items()) or "-",
            f"{row['plan']:.0f}",
            f"{row['measured']:.0f}",
            f"{row['ratio']:.3f}",
        ]
        for row in _rows("memory", "plan")
    ]
    return table(["network", "batch", "engine", "plan", "measured", "ratio"], lines)


def numbers() -> dict[str, str]:
    """Returns what stands between the marks."""
    return {make.__name__: make() for make in (step, scaling, sampling, errors, activations, plan)}


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(), numbers()))
    print(f"wrote {PAGE}")
