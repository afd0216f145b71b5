"""``matchlib distill``."""

from __future__ import annotations

from typing import Annotated

import typer

from matchlib_cli.options import Config, Data, Device, Out, Resume, Seed, Set, Steps

__all__ = ["run"]


def run(
    teacher: Annotated[str | None, typer.Option("--teacher", help="A family (its default teacher is trained or cached) or a run.")] = None,
    student: Annotated[str | None, typer.Option("--student", help="A registered student, or a run whose student goes on.")] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="realuid, uid, sid, fgm, ibmd, ...")] = None,
    alpha: Annotated[float | None, typer.Option("--alpha", help="RealUID: weight of the teacher on generated points.")] = None,
    beta: Annotated[float | None, typer.Option("--beta", help="RealUID: weight of the target on generated points.")] = None,
    gamma: Annotated[float | None, typer.Option("--gamma", help="RealUID: weight of the square on generated points.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Named settings: correct, for a teacher that is wrong.")] = None,
    config: Config = None,
    set_: Set = None,
    data: Data = None,
    out: Out = None,
    seed: Seed = None,
    device: Device = None,
    steps: Steps = None,
    resume: Resume = False,
) -> int:
    """Distil a teacher into a generator that needs one step, and score both."""
    from matchlib.runs.folder import start_run
    from matchlib_cli.commands._runs import carry_out
    from matchlib_cli.config import assemble

    options = {
        "teacher.name": teacher,
        "student.name": student,
        "loss.name": loss or ("realuid" if any(x is not None for x in (alpha, beta, gamma)) else None),
        "loss.alpha": alpha,
        "loss.beta": beta,
        "loss.gamma": gamma,
        "data.name": data,
        "out": None if out is None else str(out),
        "seed": seed,
        "device": device,
        "trainer.steps": steps,
    }
    settings = assemble("distill", config, options, set_, recipe)
    return carry_out(lambda hooks: start_run(settings, hooks, again=resume))
