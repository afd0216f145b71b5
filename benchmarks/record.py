"""How results are kept: cells cached one by one, tables with the machine, the versions and the command that made them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import torch

from matchlib.io import read_json, write_json
from matchlib.registry import families
from matchlib.runs.artifact import versions
from matchlib.runs.settings import RunSettings, plain

HERE = Path(__file__).parent
RESULTS, CACHE = HERE / "results", HERE / "cache"


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


def defaults(family: str, *, paired: bool = False) -> list[Any]:
    """Returns what no setting of a run names, for keys of cells: a change of defaults makes them anew."""
    return [plain(RunSettings()), repr(families[family]().defaults(paired=paired))]


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


def save(name: str, rows: Any, **more: Any) -> None:
    """Writes ``results/NAME.json``."""
    command = " ".join(["python", *(os.path.relpath(part) if part == sys.argv[0] else part for part in sys.argv)])
    record = {"date": f"{date.today():%Y-%m-%d}", "command": command, "machine": machine(), "versions": versions(), **more, "rows": rows}
    write_json(RESULTS / f"{name}.json", record)
    print(f"wrote {RESULTS / f'{name}.json'}")
