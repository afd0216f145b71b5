"""The table that ``matchlib check`` prints."""

from __future__ import annotations

from rich.table import Table

from matchlib.testing.law import Outcome, cases
from matchlib.testing.law import check as check_law
from matchlib_cli.screen import console

__all__ = ["check"]


def check(group: str | None, plugin: str | None) -> int:
    """Holds plugins to their laws, prints a table, and returns the exit code: 0 if every law holds, else 1."""
    outcomes = [check_law(law, name) for law, name in cases(group, plugin)]
    out = console()
    out.print(_table(outcomes))
    failed = sum(not outcome.passed for outcome in outcomes)
    laws = len({outcome.law.name for outcome in outcomes})
    out.print(f"{laws} laws, {sum(outcome.checks for outcome in outcomes)} checks, {failed} failed", markup=False)
    return 1 if failed else 0


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, justify in (("law", "left"), ("plugin", "left"), ("checks", "right"), ("worst", "right"), ("tolerance", "right")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    table.add_column("verdict", overflow="fold")
    for o in outcomes:
        table.add_row(o.law.name, o.plugin, str(o.checks), f"{o.worst:.2g}", f"{o.law.tolerance:.2g}", o.message or "holds")
    return table
