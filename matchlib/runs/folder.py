"""The folder of a run: where it is and what it was asked to do."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from matchlib.errors import ArtifactError, SettingError
from matchlib.io import write_text
from matchlib.runs.build import device_of
from matchlib.runs.run import Hooks, Run
from matchlib.runs.settings import RunSettings, from_tree, to_tree
from matchlib.training.distributed import init_distributed, strategy

__all__ = ["open_run", "read_config", "start_run", "write_config"]


def _default_folder(settings: RunSettings) -> Path:
    """``runs/DATE-NAME``, with a number behind it if that is taken."""
    teacher, data = Path(settings.teacher.name).name, Path(settings.data.name).stem
    base = Path("runs") / f"{datetime.now():%Y-%m-%d}-{settings.command}-{teacher}-{data}"
    candidates = (base if i == 1 else Path(f"{base}-{i}") for i in range(1, 10_000))
    return next(path for path in candidates if not path.exists())


def _folder(settings: RunSettings, *, again: bool) -> tuple[Path, bool]:
    """Where the run is to be, and whether it is there already."""
    folder = _default_folder(settings) if settings.out is None else Path(settings.out)
    if not (folder / "config.yaml").exists():
        return folder, False
    if not again:
        raise SettingError(f"{folder} holds a run already; choose another --out, or go on with: matchlib resume {folder}")
    there, asked = to_tree(from_tree(read_config(folder))), to_tree(settings)
    other = sorted(key for key in asked if there[key] != asked[key])
    if other:
        raise SettingError(f"{folder} holds a run with other settings ({', '.join(other)}); choose another --out")
    return folder, True


def write_config(path: Path, settings: RunSettings) -> None:
    """Writes the complete settings as YAML, atomically."""
    text = yaml.safe_dump(to_tree(settings), sort_keys=False)
    write_text(path, text)


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the settings of a run.

    Raises:
        CardError: there is no run, or its settings are damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ArtifactError(f"there is no run at {folder}: {path} is missing")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(tree, dict):
        raise ArtifactError(f"{path} is not a mapping of settings")
    return tree


def start_run(settings: RunSettings, hooks: Hooks | None = None, *, again: bool = False, **given: Any) -> Run:
    """Checks the settings, then makes the folder of a new run and writes its ``config.yaml``.

    Args:
        again: go on with the run that the folder holds, if it was started with the same settings.
        given: ``dataset``, ``teacher`` and ``loss`` made in Python, as in ``Run``.

    Raises:
        SettingError: the folder holds a run already, or one with other settings.
        MatchlibError: the settings cannot work; nothing was written.
    """
    init_distributed(device_of(settings.device))
    among = strategy(settings.trainer.engine.parallel)
    folder, there = among.on_main_process(lambda: _folder(settings, again=again))
    run = Run(settings, folder, hooks or Hooks(), **given)
    if not there:
        among.on_main_process(lambda: write_config(folder / "config.yaml", settings))
    return run


def open_run(folder: Path, hooks: Hooks | None = None, checkpoint: Path | None = None) -> Run:
    """Opens the folder of a run that was started before.

    Args:
        checkpoint: to go on from; None for the latest.
    """
    return Run(from_tree(read_config(folder)), folder, hooks or Hooks(), checkpoint=checkpoint)
