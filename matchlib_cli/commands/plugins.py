"""``matchlib plugins``."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["run"]


def run(group: Annotated[str | None, typer.Argument(metavar="[GROUP]", help="One group, with a line on each plugin.")] = None) -> int:
    """List what is registered."""
    from matchlib.errors import UnknownNameError, nearest
    from matchlib.registry import ALL

    if group is None:
        for name, registry in ALL.items():
            print(f"{name}: {', '.join(registry)}")
        return 0
    if group not in ALL:
        raise UnknownNameError(f"there is no group {group!r} (there are: {', '.join(ALL)}){nearest(group, ALL)}")
    for name in ALL[group]:
        summary = (ALL[group][name].__doc__ or "").strip().splitlines() or [""]
        print(f"{name}: {summary[0]}")
    return 0
