"""``matchlib evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from matchlib_cli.options import Device, Seed

__all__ = ["run"]


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    draws: Annotated[int | None, typer.Option("--draws", help="Draws of the held-out size that a score is averaged over.")] = None,
    seed: Seed = None,
    device: Device = None,
) -> int:
    """Score a run's student and teacher again, and rewrite its evaluation.json and samples.png."""
    from dataclasses import replace

    from matchlib.errors import SettingError
    from matchlib.evaluation.report import evaluate
    from matchlib.runs.artifact import dataset_of
    from matchlib.runs.build import device_of
    from matchlib.runs.folder import read_config
    from matchlib.runs.pipeline import load
    from matchlib.runs.teachers import data_piece
    from matchlib_cli.config import check
    from matchlib_cli.screen import show_report

    settings = check(read_config(folder))
    if draws is not None and draws < 1:
        raise SettingError(f"--draws must be at least 1, got {draws}")
    evaluation = settings.evaluation if draws is None else replace(settings.evaluation, draws=draws)
    where = str(device_of(device or settings.device))
    kinds = [kind for kind in ("teacher", "student") if (folder / kind / "card.json").exists()] or ["teacher"]
    generators = {kind: load(folder, kind, device=where) for kind in kinds}
    dataset = dataset_of(data_piece(settings.data))
    show_report(evaluate(folder, generators, dataset, evaluation, settings.seed if seed is None else seed))
    print(f"wrote {folder / 'evaluation.json'}")
    return 0
