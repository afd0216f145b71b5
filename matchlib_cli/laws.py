"""The table that ``matchlib check`` prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rich.progress import track
from rich.table import Table

from matchlib.errors import SettingError
from matchlib.registry import ALL, import_file
from matchlib.testing.law import LAWS, Outcome, broken, cases
from matchlib.testing.law import check as check_law
from matchlib_cli.screen import console

__all__ = ["check", "check_file"]

WORTH = 20  # cases that pay for starting a process


def check(group: str | None, plugin: str | None) -> int:
    """Holds plugins to their laws, prints a table, and returns the exit code: 0 if every law holds, else 1.

    Where no plugin is named, one that cannot be loaded is named beside the others' verdicts, and fails.
    """
    unloadable = broken(group) if plugin is None else {}
    todo = [(law.name, name) for law, name in cases(group, plugin, without=unloadable)]
    return _show([Outcome(LAWS[name], *found) for (name, _), found in zip(todo, _run(todo), strict=True)], unloadable)


def check_file(path: Path, plugin: str | None) -> int:
    """Runs a file and holds the plugins that it registers to their laws, in this process; the rest is as for ``check``.

    Args:
        plugin: a registered name, where not all are meant.

    Raises:
        ArtifactError: there is no such file, or it fails.
        SettingError: it registers nothing, or nothing of that name.
    """
    added = import_file(path)
    chosen = [(group, name) for group, name in added if plugin is None or name == ALL[group].canonical(plugin)]
    if not chosen:
        names = ", ".join(name for _, name in added) or "no plugin"
        raise SettingError(f"{path} registers {names}{'' if plugin is None else f', and no {plugin!r}'}")
    return _show([check_law(law, name) for group, one in chosen for law, name in cases(group, one)], {})


def _show(outcomes: list[Outcome], unloadable: Mapping[tuple[str, str], str]) -> int:
    out = console()
    out.print(_table(outcomes))
    for outcome in outcomes:
        if not outcome.passed:
            out.print(f"\n{outcome.explanation}", markup=False, highlight=False, soft_wrap=True)
    for reason in unloadable.values():
        out.print(f"\n{reason}", markup=False, highlight=False, soft_wrap=True)
    failed = sum(not outcome.passed for outcome in outcomes) + len(unloadable)
    laws = len({outcome.law.name for outcome in outcomes})
    out.print(f"{laws} laws, {sum(outcome.checks for outcome in outcomes)} checks, {failed} failed", markup=False)
    return 1 if failed else 0


def _run(todo: list[tuple[str, str]]) -> list[tuple[str, int, float, str, str]]:
    """Runs the cases, on every core if there are many; plugins are found by workers as they are by the command."""
    workers = min(os.cpu_count() or 1, len(todo) // WORTH)
    if workers < 2:
        return [_case(one) for one in track(todo, "laws", console=console(), transient=True, disable=not sys.stdout.isatty())]
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        running = pool.map(_case, todo)
        return list(track(running, "laws", len(todo), console=console(), transient=True, disable=not sys.stdout.isatty()))


def _case(case: tuple[str, str]) -> tuple[str, int, float, str, str]:
    """One law on one plugin: what travels between processes of its outcome."""
    law, name = case
    if law not in LAWS:
        list(cases(without=broken()))
    outcome = check_law(LAWS[law], name)
    return outcome.plugin, outcome.checks, outcome.worst, outcome.message, outcome.case


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("law", "left"), ("plugin", "left"), ("checks", "right"), ("worst", "right"), ("tolerance", "right")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    table.add_column("verdict", overflow="fold")
    for o in outcomes:
        table.add_row(
            o.law.name, o.plugin, str(o.checks), f"{o.worst:.2g}", f"{o.law.tolerance_for(o.plugin):.2g}", "holds" if o.passed else "fails"
        )
    return table
