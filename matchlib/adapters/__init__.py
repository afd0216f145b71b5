"""Teachers of other packages, a function for each: ``matchlib.adapters.torchcfm(network)``.

What a package needs is imported when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matchlib.adapters.denoisers import EDMPrecond, azula, edm
    from matchlib.adapters.flows import flow_matching, realuid, torchcfm
    from matchlib.adapters.networks import build, describe
    from matchlib.adapters.origin import PREFIXES, open_teacher, rebuild
    from matchlib.adapters.pipelines import OfDiffusers, diffusers, of_model
    from matchlib.adapters.published import dit, sit

__all__ = [
    "PREFIXES",
    "EDMPrecond",
    "OfDiffusers",
    "azula",
    "build",
    "describe",
    "diffusers",
    "dit",
    "edm",
    "flow_matching",
    "of_model",
    "open_teacher",
    "realuid",
    "rebuild",
    "sit",
    "torchcfm",
]

_HOMES = {
    "EDMPrecond": "denoisers",
    "OfDiffusers": "pipelines",
    "PREFIXES": "origin",
    "azula": "denoisers",
    "build": "networks",
    "describe": "networks",
    "diffusers": "pipelines",
    "dit": "published",
    "edm": "denoisers",
    "flow_matching": "flows",
    "of_model": "pipelines",
    "open_teacher": "origin",
    "realuid": "flows",
    "rebuild": "origin",
    "sit": "published",
    "torchcfm": "flows",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'matchlib.adapters' has no attribute {name!r}")
    return getattr(importlib.import_module(f"matchlib.adapters.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
