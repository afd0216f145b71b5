"""How results are kept: cells cached one by one, tables with the machine, the versions and the command that made them."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

from matchlib.cards import versions
from matchlib.training.files import write_json

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


def save(name: str, rows: Any, **more: Any) -> None:
    """Writes ``results/NAME.json``."""
    command = " ".join(["python", *(os.path.relpath(part) if part == sys.argv[0] else part for part in sys.argv)])
    record = {"date": f"{date.today():%Y-%m-%d}", "command": command, "machine": machine(), "versions": versions(), **more, "rows": rows}
    write_json(RESULTS / f"{name}.json", record)
    print(f"wrote {RESULTS / f'{name}.json'}")
