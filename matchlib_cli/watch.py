"""A run that another process works on, as its files show it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from matchlib.runs.page.curves import alarm_message, alarms_of
from matchlib.runs.record import Follower, Record, read_record
from matchlib.runs.scoring import read_evaluation
from matchlib.training.callbacks import Progress, is_measured
from matchlib_cli.blocks import Blocks
from matchlib_cli.screen import LiveView, live_view, show_report

__all__ = ["follow"]

Row = dict[str, Any]
PAUSE = 1.0  # seconds between two looks
SILENCE = 60.0  # seconds without a row, after which a user is told


def follow(folder: Path, *, once: bool = False, pictures: bool = False) -> None:
    """Shows the progress of a run until it is scored, or a signal comes.

    Args:
        once: whether to end when everything that is there was shown.
        pictures: whether samples are shown as blocks of colour.

    Raises:
        ArtifactError: there is no run, or its scores cannot be read.
    """
    record, log, quiet = read_record(folder), Follower(folder / "metrics.jsonl"), 0.0
    with live_view() as view:
        if pictures:
            view.samples = Blocks(folder).text
        rows = log.new()
        _show(view, record, rows, rows)
        while not (once or view.stopped() or (folder / "evaluation.json").exists()):
            time.sleep(PAUSE)
            new = log.new()
            rows += new
            _show(view, record, rows, new, aloud=True)
            quiet = 0.0 if new else quiet + PAUSE
            if quiet == SILENCE:
                view.say(f"no new row for {SILENCE:.0f} s; if the run was stopped, it goes on with: matchlib resume {folder}")
    if (folder / "evaluation.json").exists():
        show_report(read_evaluation(folder / "evaluation.json"))


def _show(view: LiveView, record: Record, rows: list[Row], new: list[Row], *, aloud: bool = False) -> None:
    """Shows new rows and the alarms that rang in them.

    Args:
        rows: all of them.
        aloud: whether each row is shown; else the last one.
    """
    fresh, measured, shown = {id(row) for row in new}, dict[str, Row](), list[Progress]()
    rang = [each for phase in dict.fromkeys(row["phase"] for row in new) for each in alarms_of(_of(rows, phase))]
    for row in rows:
        phase = row["phase"]
        if is_measured(row):
            measured[phase] = row
        if id(row) not in fresh:
            continue
        later = record.steps_of("student") if phase == "teacher" and record.setting("command") == "distill" else 0
        progress = Progress.of(row, record.steps_of(phase), later, measured.get(phase))
        for step, name in ((step, name) for step, name, its_row in rang if its_row is row):
            view.say(f"alarm ({name}) at step {step} of {phase}: {alarm_message(name, row)}")
        if progress is not None:
            shown.append(progress)
    for i, progress in enumerate(shown):
        (view.show if aloud or i == len(shown) - 1 else view.remember)(progress)


def _of(rows: list[Row], phase: str) -> list[Row]:
    return [row for row in rows if row["phase"] == phase]
