"""``matchlib plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matchlib_cli.options import Data, Set

__all__ = ["run"]


def run(
    config: Annotated[Path, typer.Argument(metavar="RUN.yaml", help="Settings of a distillation, as for --config.")],
    memory: Annotated[str | None, typer.Option("--memory", help="What there is, for example 24GiB.")] = None,
    set_: Set = None,
    data: Data = None,
) -> int:
    """Print the memory that a distillation will need, by part, and the largest batch that fits."""
    from matchlib.runs.plan import plan
    from matchlib_cli.config import assemble
    from matchlib_cli.screen import read_bytes, show_plan

    there = None if memory is None else read_bytes(memory)
    show_plan(plan(assemble("distill", config, {"data.name": data}, set_)), there)
    return 0
