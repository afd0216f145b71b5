"""Named settings: each file ``NAME.yaml`` here is a part of the configuration tree, laid over the defaults before anything else is."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import yaml

from matchlib.errors import UnknownNameError, nearest

__all__ = ["names", "recipe"]


def names() -> list[str]:
    """Returns the names of the recipes."""
    return sorted(file.name.removesuffix(".yaml") for file in files(__name__).iterdir() if file.name.endswith(".yaml"))


def recipe(name: str) -> dict[str, Any]:
    """Returns the settings of a recipe, a part of the tree that ``config.yaml`` holds.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    if name not in names():
        raise UnknownNameError(f"unknown recipe {name!r} (there are: {', '.join(names())}){nearest(name, names())}")
    tree: dict[str, Any] = yaml.safe_load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    return tree
