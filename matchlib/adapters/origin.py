"""Where a teacher came from, as JSON, and how it is opened and made again.

An origin is ``{"adapter": NAME, "network": description or None, "settings": {...}}``, and ``path``, ``name`` and ``digest`` where a file
or folder was read. With a description of the network, no file and no trust is needed; otherwise the code of ``FILE.py`` is run again.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from matchlib.adapters import denoisers, flows, pipelines, published
from matchlib.adapters.networks import build
from matchlib.errors import ArtifactError, SettingError, UnknownNameError, nearest
from matchlib.fields.teacher import Teacher
from matchlib.registry import defined_in

__all__ = ["open_teacher", "rebuild"]

MAKERS: Mapping[str, Callable[..., Teacher]] = {
    "diffusers": pipelines.of_model,
    "torchcfm": flows.torchcfm,
    "flow_matching": flows.flow_matching,
    "edm": denoisers.edm,
    "azula": denoisers.azula,
    "dit": published.of_dit,
    "sit": published.of_sit,
}
OPENERS: Mapping[str, Callable[[Path], Teacher]] = {
    "diffusers": pipelines.diffusers,
    "dit": published.dit,
    "sit": published.sit,
}  # of a path alone
PREFIXES = tuple(MAKERS)  # of PREFIX:PATH where a teacher is named
PYTHON = "python"  # the adapter of a file that makes the teacher itself


def open_teacher(spec: str, *, trust: bool) -> Teacher | None:
    """Returns the teacher of ``PREFIX:PATH`` or ``FILE.py:NAME``; None for a name of another form.

    Args:
        spec: ``diffusers:FOLDER``; ``dit:FILE`` or ``sit:FILE``, checkpoints of these; ``torchcfm:FILE.py:NAME``,
            ``flow_matching:FILE.py:NAME``, ``edm:FILE.py:NAME`` or ``azula:FILE.py:NAME``, where NAME is a network in the package's
            convention or a function without arguments that returns one; or ``FILE.py:NAME`` of a ``Teacher``.
        trust: whether the code of FILE.py may be run.

    Raises:
        SettingError: code would be run without trust, or NAME is something else.
        ArtifactError: the file or folder is missing, or fails.
        UnknownNameError: the file has no such name.
    """
    prefix, _, rest = spec.partition(":")
    if prefix in PREFIXES:
        if prefix in OPENERS:
            return OPENERS[prefix](Path(rest).expanduser())
        network, place = _from_file(rest, nn.Module, "a torch.nn.Module", trust=trust)
        teacher: Teacher = MAKERS[prefix](network)
        settings = {} if teacher.origin is None else teacher.origin
        teacher.origin = {"adapter": prefix, "network": None, **settings, **place}
        return teacher
    if not spec.rpartition(":")[0].endswith(".py"):
        return None
    teacher, place = _from_file(spec, Teacher, "a matchlib.Teacher", trust=trust)
    teacher.origin = getattr(teacher, "origin", None) or {"adapter": PYTHON, "network": None, **place}
    return teacher


def rebuild(origin: Mapping[str, Any], *, trust: bool) -> Teacher:
    """Returns the teacher of an origin; where its network is described, with fresh weights.

    Raises:
        ArtifactError: the origin is none, or needs code that is not trusted or has changed.
        MatchlibError: a package is not installed.
    """
    adapter, network, settings = (origin.get(key) for key in ("adapter", "network", "settings"))
    if not isinstance(adapter, str) or adapter not in (*PREFIXES, PYTHON):
        raise ArtifactError(f"the adapter of a teacher is one of {', '.join(PREFIXES)}, got {adapter!r}")
    if isinstance(network, Mapping) and adapter in MAKERS:
        try:
            rebuilt = MAKERS[adapter](build(network), **(settings or {}))
        except (TypeError, KeyError) as error:
            raise ArtifactError(f"the settings of the adapter {adapter} are not its own: {settings} ({error})") from error
        lacking = sorted((rebuilt.origin or {}).get("settings", {}).keys() - (settings or {}).keys())
        if lacking:
            raise ArtifactError(f"the settings of the adapter {adapter} lack {', '.join(lacking)}")
        return rebuilt
    path, name = origin.get("path"), origin.get("name")
    if path is None or name is None:
        raise ArtifactError("the teacher's network was made in Python: give its teacher again, teacher=...")
    if os.path.isfile(path) and _digest(Path(path)) != origin.get("digest"):
        raise ArtifactError(
            f"{path} has changed since the teacher was read from it: restore it, or, in Python, give the teacher again, teacher=..."
        )
    teacher = open_teacher(f"{path}:{name}" if adapter == PYTHON else f"{adapter}:{path}:{name}", trust=trust)
    assert teacher is not None
    return teacher


def _from_file(spec: str, kind: type, wanted: str, *, trust: bool) -> tuple[Any, dict[str, str]]:
    """Runs FILE.py of ``FILE.py:NAME`` and returns what NAME is, or returns, with its path, name and digest."""
    file, _, name = spec.rpartition(":")
    path = Path(file).expanduser()
    if not file.endswith(".py") or not name:
        raise SettingError(f"a network is named by FILE.py:NAME, got {spec!r}")
    if not os.path.isfile(path):
        raise ArtifactError(f"there is no file {file}, of which {name!r} is to be the teacher")
    if not trust:
        raise SettingError(f"{file} is Python code that would be run; if you trust who wrote it, give --trust (in Python trust=True)")
    names = defined_in(path)  # a file that is named as --plugins as well is run once
    names = _run(lambda: _names_of(path), file) if names is None else names
    if name not in names:
        raise UnknownNameError(f"{file} defines no {name!r}{nearest(name, [key for key in names if not key.startswith('_')])}")
    value = names[name]
    if callable(value) and not isinstance(value, nn.Module):
        value = _run(_without_arguments(value, spec, wanted), f"{name}() of {file}")
    if not isinstance(value, kind):
        prefixes = ", ".join(f"{prefix}:{spec}" for prefix in PREFIXES if prefix not in OPENERS)
        hint = f"; a network alone is opened as one of {prefixes}" if isinstance(value, nn.Module) else ""
        raise SettingError(f"{spec} must be {wanted}, or a function without arguments that returns one, got {type(value).__name__}{hint}")
    return value, {"path": str(path.absolute()), "name": name, "digest": _digest(path)}


def _names_of(path: Path) -> dict[str, Any]:
    """Runs a file; from now on modules beside it can be imported, after those that are installed."""
    folder = str(path.absolute().parent)
    if folder not in sys.path:
        sys.path.append(folder)
    return runpy.run_path(str(path))


def _without_arguments(function: Callable[[], Any], spec: str, wanted: str) -> Callable[[], Any]:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        raise SettingError(f"{spec} must be {wanted}, or a function without arguments that returns one; it wants arguments") from None
    return function


def _run(function: Callable[[], Any], what: str) -> Any:
    """Runs code of somebody else's, whose errors and exits become one line."""
    try:
        return function()
    except SystemExit as error:
        raise ArtifactError(f"{what} ends the program (exit {error.code}) where it is to define a teacher") from error
    except Exception as error:
        raise ArtifactError(f"{what} fails: {type(error).__name__}: {' '.join(str(error).split())}"[:400]) from error


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
