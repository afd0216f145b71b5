"""Weak teachers, and students of theirs: every cell is cached, so a rerun resumes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

import matchlib
from benchmarks.record import CACHE, STUDIES, cell, defaults, interval, save
from benchmarks.studies.correction.tasks import Task
from matchlib.errors import DivergedError
from matchlib.io import read_json
from matchlib.runs.recipes import recipe

__all__ = [
    "PLACE",
    "STEPS",
    "Method",
    "arguments",
    "defaults_of",
    "merged",
    "samples_of",
    "settings_of",
    "student",
    "table",
    "table_options",
    "teacher",
    "working",
]

PLACE = CACHE / "correction"
STEPS = 3200
SHOWN = 64  # samples that are kept of every student
Method = Callable[[Task, str, str, int], dict[str, Any]]  # of task, family, kind of teacher and seed; returns scores


def _named(task: Task, family: str, kind: str, seed: int) -> dict[str, Any]:
    """Returns what a teacher depends on: its settings and a digest of its data."""
    data = task.spoilt(kind, seed).train.data.numpy().tobytes()
    settings = {**task.settings, **task.kinds[kind].settings}
    return {"task": task.name, "family": family, "kind": kind, "seed": seed, "settings": settings, "data": sha256(data).hexdigest()[:12]}


def defaults_of(family: str) -> str:
    """Returns a digest of what no setting of a student's run names."""
    return _digest({"defaults": defaults(family)})


def _digest(what: dict[str, Any]) -> str:
    return sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]


def teacher(task: Task, family: str, kind: str, seed: int) -> tuple[Path, dict[str, Any]]:
    """Returns the folder and the scores of a weak teacher, trained if it is not there."""
    named = _named(task, family, kind, seed)
    folder, settings = PLACE / f"teacher-{task.name}-{family}-{kind.replace(' ', '-')}-{seed}-{_digest(named)}", named["settings"]

    def make() -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.perf_counter()
        made = matchlib.train(family, task.spoilt(kind, seed), seed=seed, out=folder, settings=settings)
        return {"seconds": time.perf_counter() - begin, **task.score(made)}

    found = cell({"benchmark": "correction", "teacher": named}, make)
    if not (folder / "teacher").exists():
        make()
    return folder, found


def settings_of(task: Task, kind: str, method: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a student's run, by dotted path; student and critic of a small teacher have the usual size."""
    own = {"student.network": dict(task.network), "trainer.critic_network": dict(task.network)} if task.kinds[kind].small else {}
    return {"trainer.steps": STEPS, **task.settings, **own, **method}


def arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings as arguments of ``matchlib.distill``."""
    return {"recipe": settings.get("recipe"), "settings": {key: value for key, value in settings.items() if key != "recipe"}}


def working(task: Task, what: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Returns a cell that is made in a folder of its own, with the seconds that it took.

    Args:
        what: names the cell; its method, family, kind of teacher, seed and settings among it.
        make: is given the folder, which is removed afterwards.
    """
    named = {"recipe": recipe(name)} if (name := what["settings"].get("recipe")) else {}

    def fresh() -> dict[str, Any]:
        folder = PLACE / f"student-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.perf_counter()
        try:
            found = make(folder)
        except DivergedError as error:  # a run that stopped itself is a result, too
            found = {"stopped": str(error)}
        shutil.rmtree(folder, ignore_errors=True)
        return {"seconds": time.perf_counter() - begin, **found}

    made_of = _named(task, what["family"], what["kind"], what["seed"])
    return cell(
        {
            "benchmark": "correction",
            **what,
            "settings": {**what["settings"], **named},
            "teacher": made_of,
            "defaults": defaults(what["family"]),
        },
        fresh,
    )


def samples_of(task: Task, family: str, kind: str, seed: int, settings: dict[str, Any]) -> Path:
    """Returns where a few samples of a student are kept, for pictures."""
    return PLACE / f"samples-{_digest({**_named(task, family, kind, seed), 'student': settings})}.npz"


def student(**method: Any) -> Method:
    """Returns the method that distils with these settings, by dotted path."""

    def made(task: Task, family: str, kind: str, seed: int) -> dict[str, Any]:
        settings = settings_of(task, kind, method)
        from_, _ = teacher(task, family, kind, seed)

        def make(folder: Path) -> dict[str, Any]:
            generator = matchlib.distill(from_, task.data(), seed=seed, out=folder, **arguments(settings))
            np.savez(samples_of(task, family, kind, seed, settings), data=generator.sample(SHOWN, seed=1).numpy())
            log = (folder / "metrics.jsonl").read_text().splitlines()
            return {"alarms": sum('"alarms"' in row for row in log), **task.score(generator)}

        return working(task, {"method": "student", "family": family, "kind": kind, "seed": seed, "settings": settings}, make)

    return made


def table_options(description: str | None, seeds: Sequence[int], methods: Sequence[str], known: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the options that every table has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="flow")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--methods", nargs="+", default=list(methods), choices=list(known))
    parser.add_argument("--kinds", nargs="+")
    parser.add_argument("--name", help="of the file of results")
    return parser


def merged(name: str, rows: list[dict[str, Any]], family: str = "flow") -> list[dict[str, Any]]:
    """Returns the rows with those of a file of results that they do not replace and that were made with the same defaults."""

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["kind"], row["seed"], row["method"]

    path = STUDIES / f"{name}.json"
    record = read_json(path) if path.exists() else {}
    same = record.get("defaults") == defaults_of(family)
    if record and not same:
        print(f"{path} was made with other defaults: its rows are not kept")
    there = {key(row): row for row in (record["rows"] if same else [])}
    return list((there | {key(row): row for row in rows}).values())


def table(task: Task, name: str, given: argparse.Namespace, methods: dict[str, Method], only: dict[str, Sequence[str]]) -> None:
    """Makes a table, cell by cell, and writes it as far as it goes after every seed; other rows that its file has stay there.

    Args:
        name: of the file of results.
        given: what ``table_options`` parsed.
        only: the kinds that a method is tried on, if not all.
    """
    least, rows, kinds = task.floor(), [], given.kinds or list(task.kinds)
    for seed in given.seeds:
        for kind in kinds:
            found = {"teacher": teacher(task, given.family, kind, seed)[1]}
            for method in [method for method in given.methods if kind in only.get(method, kinds)]:
                found[method] = methods[method](task, given.family, kind, seed)
            rows += [{"family": given.family, "kind": kind, "seed": seed, "method": method, **x} for method, x in found.items()]
            shown = {method: "stopped" if "stopped" in x else round(x[task.key] - least[task.key], 3) for method, x in found.items()}
            print(seed, f"{kind:24}", shown, flush=True)
        more = {"floor": least, "key": task.key, "steps": task.settings.get("trainer.steps", STEPS), "defaults": defaults_of(given.family)}
        save(name, merged(name, rows, given.family), folder=STUDIES, **more)
    for kind in kinds:
        for method in ("teacher", *given.methods):
            own = [row for row in rows if (row["kind"], row["method"]) == (kind, method) and "stopped" not in row]
            if own:
                mean, half = interval([row[task.key] - least[task.key] for row in own])
                cover, near = (np.mean([row[key] for row in own]) for key in ("coverage", "nearest_ratio"))
                print(f"{kind:24} {method:10} excess {mean:6.3f} +- {half:.3f}  coverage {cover:.2f}  nearest {near:.2f}")
