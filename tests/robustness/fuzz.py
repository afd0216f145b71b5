"""Tries wrong inputs by the thousand, goes on where it was interrupted, and records what failed: ``make fuzz``.

python -m tests.robustness.fuzz [--each N] [--minutes M] [--seed S] [--kind KIND] [--fresh]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from tests.robustness.generator import KINDS, cases, template
from tests.robustness.harness import run

ROOT = Path(__file__).parents[2]
STATE, RESULT = ROOT / "build" / "fuzz.json", ROOT / "benchmarks" / "results" / "fuzz.json"
SAVE_EVERY = 20.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=1500, help="wrong inputs of each kind")
    parser.add_argument("--minutes", type=float, default=60.0, help="time after which to stop; the same call goes on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    parser.add_argument("--fresh", action="store_true", help="forget what was tried")
    options = parser.parse_args()
    state = _state(options.seed, fresh=options.fresh)
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(base / "cache")
        tempfile.tempdir = str(base / "reports")
        (base / "reports").mkdir()
        print("making the template", flush=True)
        template(base / "template")
        for kind in options.kind or KINDS:
            _try(kind, options.each, state, base, end)
    _save(state, RESULT)
    for kind, row in state["kinds"].items():
        print(f"{kind:10} tried {row['tried']:6}  failed {len(row['failed'])}")
    return int(any(row["failed"] for row in state["kinds"].values()))


def _state(seed: int, *, fresh: bool) -> dict[str, Any]:
    if not fresh and STATE.exists():
        state: dict[str, Any] = json.loads(STATE.read_text(encoding="utf-8"))
        if state["seed"] == seed:
            return state
    return {"seed": seed, "kinds": {}}


def _save(state: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _try(kind: str, count: int, state: dict[str, Any], base: Path, end: float) -> None:
    row = state["kinds"].setdefault(kind, {"tried": 0, "codes": {}, "failed": []})
    saved = time.monotonic()
    for case in islice(cases(kind, state["seed"]), row["tried"], count):
        if time.monotonic() > end:
            break
        verdict = run(case, base / "template", base / "folder")
        row["tried"] += 1
        code = str(verdict.code)
        row["codes"][code] = row["codes"].get(code, 0) + 1
        if verdict.faults:
            failed = {"name": case.name, "argv": list(case.argv)[:30], "faults": verdict.faults, "err": verdict.err[-600:], "report": ""}
            for report in sorted((base / "reports").glob("matchlib-*.log")):
                failed["report"] = report.read_text(encoding="utf-8")[-1500:]
            row["failed"].append(failed)
            print(f"FAILED {kind}: {case.name[:100]}: {verdict.faults[:3]} {verdict.err.strip()[:200]}", flush=True)
        for report in (base / "reports").iterdir():
            shutil.rmtree(report) if report.is_dir() else report.unlink()
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            _save(state, STATE)
    _save(state, STATE)


if __name__ == "__main__":
    sys.exit(main())
