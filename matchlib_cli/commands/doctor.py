"""``matchlib doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from matchlib_cli.options import Data, Seed

__all__ = ["run"]

WRONG = 2


def run(
    teacher: Annotated[str, typer.Argument(metavar="TEACHER", help="Folder of a run, or FILE.py:NAME of a matchlib.Teacher.")],
    data: Data = None,
    seed: Seed = None,
) -> int:
    """Examine a teacher before anything is trained on it: time, sign, scale, prediction, labels, weights."""
    from matchlib.errors import SettingError
    from matchlib.evaluation.doctor import examine
    from matchlib.runs.teachers import teacher_and_data
    from matchlib_cli.screen import show_diagnosis

    if seed is not None and seed < 0:
        raise SettingError(f"--seed must be at least 0, got {seed}")
    diagnosis = examine(*teacher_and_data(teacher, data), seed=seed or 0)
    show_diagnosis(diagnosis)
    return WRONG if diagnosis.mistakes else 0
