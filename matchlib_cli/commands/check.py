"""``matchlib check``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["run"]


def run(
    group: Annotated[str | None, typer.Argument(metavar="[GROUP]", help="Group of the plugin, e.g. interpolants.")] = None,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Registered name of the plugin.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every registered plugin.")] = False,
) -> int:
    """Hold plugins to the laws of their group."""
    from matchlib.errors import SettingError, UnknownNameError, nearest
    from matchlib.registry import ALL
    from matchlib_cli.laws import check

    if every == (group is not None):
        raise SettingError("check takes GROUP NAME, or --all")
    if group is not None and group not in ALL:
        raise UnknownNameError(f"there is no group {group!r} (there are: {', '.join(ALL)}){nearest(group, ALL)}")
    if group is not None and name is not None:
        ALL[group][name]
    return check(group, name)
