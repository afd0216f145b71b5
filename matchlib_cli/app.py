"""The command ``matchlib``. Only what answers ``--help`` is imported here; torch is imported when a command runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from matchlib_cli.commands import COMMANDS
from matchlib_cli.errors import exit_code

__all__ = ["app", "main"]

app = typer.Typer(
    name="matchlib",
    help="Train matching models (diffusion, flow, bridge, stochastic interpolant) and distil them into one-step generators.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in COMMANDS:
    app.command(command.__name__)(command)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 0 done, 2 wrong input, 3 training stopped itself, 130 interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    sys.exit(exit_code(lambda: app(args=args, standalone_mode=False, prog_name="matchlib"), given=" ".join(["matchlib", *args])))
