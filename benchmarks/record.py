"""How results are kept: cells cached one by one, tables with the machine, the versions and the command that made them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from matchlib.algebra.times import time_of
from matchlib.distillation.defaults import LARGEST, LR, TEACHER_LR_SCALE, comparison_times, critic_steps, mean_log_scale
from matchlib.distillation.start import axes_of
from matchlib.io import read_json, write_json, write_text
from matchlib.registry import families
from matchlib.runs.artifact import versions
from matchlib.runs.settings import RunSettings, plain

HERE = Path(__file__).resolve().parent
RESULTS, STUDIES, CACHE = HERE / "results", HERE / "studies" / "results", HERE / "cache"
SPECTRA = [torch.tensor(some, dtype=torch.float64) for some in ([9.0, 1.0], [900.0, 90.0, 9.0, 4.0, 1.0, 0.1])]
DIGITS = 5  # of a number in a file of results


def machine() -> dict[str, Any]:
    """Returns what a reader needs to judge a timing."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    return {"processor": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": "cpu"}


def cell(key: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns a cell of a table, from the cache if it was computed before."""
    digest = hashlib.sha256(json.dumps([key, versions()], sort_keys=True).encode()).hexdigest()[:16]
    path = CACHE / f"{digest}.json"
    if path.exists():
        return json.loads(path.read_text())["value"]
    value = compute()
    write_json(path, {"key": key, "value": value})
    return value


def defaults(family: str, *, paired: bool = False, rules: bool = True) -> list[Any]:
    """Returns what no setting of a run names, for keys of cells: a change of defaults makes them anew.

    Args:
        rules: whether the cell leaves the times of comparisons and the critic's steps to the rules.
    """
    settings = plain(RunSettings())
    del settings["student"]["axes"]  # the default is in ``start_of``
    found = [settings, repr(families[family]().defaults(paired=paired)), LR, LARGEST, TEACHER_LR_SCALE]
    chosen = [(comparison_times(spectrum).log_sigma, critic_steps(spectrum)) for spectrum in SPECTRA]
    return found + (chosen if rules else []) + start_of(family, paired=paired)


def start_of(family: str, *, paired: bool = False) -> list[Any]:
    """Returns where students of a family start, for keys of cells; nothing where that is t = 1, from plain noise."""
    own = families[family]().defaults(paired=paired)
    model = families[family]().model(paired=paired)
    return [(axes_of((1, 8, 8)), time_of(model.interpolant, mean_log_scale(SPECTRA[0]), model.times))] if own.t_start is None else []


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes an npz file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"partial-{path.name}")
    np.savez(partial, **arrays)
    os.replace(partial, path)


def distilled(options: Sequence[str], folder: Path, shown: Sequence[str], **environment: str) -> dict[str, Any]:
    """Runs ``matchlib distill`` afresh and returns its scores and how long it took, teacher included unless the benchmarks' cache has it.

    Args:
        folder: of the run; what was there is removed.
        shown: keys of the evaluation to keep.
        environment: further variables.
    """
    shutil.rmtree(folder, ignore_errors=True)
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "matchlib_cli", "distill", *options, "--out", str(folder)],
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(CACHE / "teachers"), **environment},
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - begin
    report = read_json(folder / "evaluation.json")
    kinds = ("student", "teacher", "held_out")
    return {"seconds_in_all": seconds} | {kind: {key: report[kind][key] for key in shown if key in report[kind]} for kind in kinds}


def filled(text: str, numbers: dict[str, str]) -> str:
    """Returns a page with what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->`` replaced, tables on lines of their own."""
    for name, value in numbers.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        _, after = rest.split(end)
        text = before + begin + (f"\n{value}\n" if value.startswith("|") else value) + end + after
    return text


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Returns a table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *lines))


def command() -> str:
    """Returns the command line of this process, as it is typed in the repository."""
    path = Path(sys.argv[0]).resolve()
    name = path.relative_to(HERE.parent) if path.is_relative_to(HERE.parent) else Path(path.name)
    script = ["-m", ".".join(name.with_suffix("").parts)] if path.is_relative_to(HERE) else [str(name)]
    return shlex.join(["python", *script, *(Path(part).name if os.sep in part else part for part in sys.argv[1:])])


def save(name: str, rows: Any, *, folder: Path = RESULTS, **more: Any) -> None:
    """Writes ``FOLDER/NAME.json``."""
    record = {"date": f"{date.today():%Y-%m-%d}", "command": command(), "machine": machine(), "versions": versions(), **more, "rows": rows}
    write_record(folder / f"{name}.json", record)
    print(f"wrote {folder / f'{name}.json'}")


def merged(name: str, rows: Sequence[Mapping[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """Returns the rows of ``results/NAME.json`` with new ones in the places of those that have the same keys, and the others after them."""
    path = RESULTS / f"{name}.json"
    before = read_json(path)["rows"] if path.exists() else []
    return list({tuple(row[key] for key in keys): dict(row) for row in (*before, *rows)}.values())


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes results as JSON, a row on each line, numbers with ``DIGITS`` digits."""
    lines = []
    for key, value in plain_json(record).items():
        rows = isinstance(value, list) and all(isinstance(row, dict) for row in value)
        text = "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]" if rows and value else json.dumps(value)
        lines.append(f" {json.dumps(key)}: {text}")
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def plain_json(value: Any) -> Any:
    """Returns what JSON can hold: numbers rounded, infinities as strings, NaN as null."""
    if isinstance(value, Mapping):
        return {str(key): plain_json(x) for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(x) for x in value]
    if not isinstance(value, float):
        return value
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None if math.isnan(value) else float(f"{value:.{DIGITS}g}")


def interval(values: list[float]) -> tuple[float, float]:
    """Returns the mean and half the width of its 95% confidence interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(half)
