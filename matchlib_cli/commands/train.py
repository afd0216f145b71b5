"""``matchlib train``."""

from __future__ import annotations

from typing import Annotated

import typer

from matchlib_cli.options import Config, Data, Device, Out, Resume, Seed, Set, Steps

__all__ = ["run"]


def run(
    family: Annotated[str | None, typer.Option("--family", help="Family of the teacher: flow, diffusion, bridge, interpolant, ...")] = None,
    config: Config = None,
    set_: Set = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    steps: Steps = None,
    resume: Resume = False,
) -> int:
    """Train a teacher and score its samples."""
    from matchlib.runs.folder import start_run
    from matchlib_cli.commands._runs import carry_out
    from matchlib_cli.config import assemble

    options = {
        "teacher.name": family,
        "data.name": data,
        "out": None if out is None else str(out),
        "seed": seed,
        "device": device,
        "teacher.training.steps": steps,
    }
    settings = assemble("train", config, options, set_)
    return carry_out(lambda hooks: start_run(settings, hooks, again=resume))
