"""``matchlib resume``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["run"]


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run that was cut short.")],
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="One of RUN/checkpoints to go on from; by default the last.")
    ] = None,
) -> int:
    """Go on with a run from its last checkpoint."""
    from matchlib.runs.folder import open_run, read_config
    from matchlib_cli.commands._runs import carry_out
    from matchlib_cli.config import check

    check(read_config(folder))
    if (folder / "evaluation.json").exists():
        print(f"{folder} is finished: there is nothing to resume")
        return 0
    return carry_out(lambda hooks: open_run(folder, hooks, checkpoint))
