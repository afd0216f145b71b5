"""What train, distill and resume have in common."""

from __future__ import annotations

from collections.abc import Callable

from matchlib.runs.run import Hooks, Run
from matchlib.training.distributed import hard_exit
from matchlib.training.trainer import Interrupted
from matchlib_cli.errors import INTERRUPTED, fail
from matchlib_cli.screen import console, hooks, show_report

__all__ = ["carry_out"]


def carry_out(start: Callable[[Hooks], Run]) -> int:
    """Starts or opens a run, executes it with progress, shows what came of it, and returns the exit code."""
    code = _carry_out(start)
    hard_exit(code)
    return code


def _carry_out(start: Callable[[Hooks], Run]) -> int:
    with hooks() as shown:
        run = start(shown)
        run.hooks.say(f"run: {run.folder}")
        try:
            report = run.execute()
        except Interrupted as interrupted:
            fail(f"{interrupted}; go on with: matchlib resume {run.folder}")
            return INTERRUPTED
    if run.parallel.rank:
        return 0
    show_report(report)
    for name in ("samples.png", "evaluation.json", *sorted(run.generators)):
        console().print(f"wrote {run.folder / name}", markup=False)
    return 0
