"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Config", "Data", "Device", "Out", "Resume", "Seed", "Set", "Steps"]

Config = Annotated[Path | None, typer.Option("--config", help="YAML file of settings; options and --set overrule it.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting, PATH=VALUE, e.g. teacher.interpolant.name=trigonometric.")]
Data = Annotated[str | None, typer.Option("--data", help="Registered data set, FILE.npz, or a folder of images.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the run [default: runs/DATE-NAME].")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of every random stream.")]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of the training that the command is named after.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out if it is there: the same command starts and restarts it.")
]
