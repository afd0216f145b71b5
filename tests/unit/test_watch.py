"""matchlib_cli.screen and matchlib_cli.watch: the live view, and a run that another process works on."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from matchlib.runs.record import Follower
from matchlib.training.callbacks import Progress
from matchlib_cli import watch
from matchlib_cli.screen import LiveView, duration, sparkline
from matchlib_cli.signals import Stop

CONFIG = "command: distill\nteacher: {training: {steps: 10}}\ntrainer: {steps: 40}\n"


def row(phase: str, step: int, **more: object) -> str:
    return json.dumps({"phase": phase, "step": step, "loss/critic": 0.5, "seconds": step / 10, **more}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "metrics.jsonl").write_text("".join(row("teacher", step) for step in (5, 10)) + row("student", 5) + row("student", 10))
    return tmp_path


# -- the log of another process --------------------------------------------------------------------------------------------


def test_follower_reads_each_row_once_and_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    assert follower.new() == []
    path.write_text(row("student", 1) + row("student", 2)[:20])
    assert [x["step"] for x in follower.new()] == [1]
    path.write_text(row("student", 1) + row("student", 2) + "no row\n")
    assert [x["step"] for x in follower.new()] == [2]
    assert follower.new() == []


def test_follower_goes_on_after_a_resumed_run_has_written_the_log_anew(tmp_path: Path) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "new"
    follower = Follower(path)
    path.write_text(row("student", 1) + row("student", 2) + row("student", 3))
    assert len(follower.new()) == 3
    other.write_text(row("student", 1))
    os.replace(other, path)
    assert follower.new() == []
    with path.open("a") as file:
        file.write(row("student", 2, again=1) + row("student", 4))
    assert [x["step"] for x in follower.new()] == [2, 4]


def test_watch_shows_how_far_a_run_is(folder: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = cli("watch", folder, "--once")
    assert (code, err) == (0, "")
    assert out == "student 10/40  critic 0.5  10 steps/s  3 s left\n"


def test_watch_follows_a_run_to_its_scores(folder: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "PAUSE", 0.02)
    scores = {"student": {"nfe": 1, "frechet": 0.25}, "held_out": {"frechet": 0.2}}
    protocol = {"data": "moons", "reference": "train", "samples": 4, "draws": 1, "subset": 4, "clip_samples": False, "features": "labels"}
    report = {**protocol, **scores}

    def run() -> None:
        time.sleep(0.2)
        readings = {"monitor/std_ratio": 0.1, "monitor/nn_distance_ratio": 0.1, "monitor/gap": 2.0}
        with (folder / "metrics.jsonl").open("a") as log:
            log.write(row("student", 40, alarms=["collapse", "odd"], **readings))
        time.sleep(0.2)
        (folder / "evaluation.json").write_text(json.dumps(report))

    writer = threading.Thread(target=run)
    writer.start()
    code, out, err = cli("watch", folder)
    writer.join()
    assert (code, err) == (0, "")
    assert "alarm (collapse) at step 40 of student: samples are too much alike (standard deviation 0.10" in out
    assert "alarm (odd) at step 40 of student" in out
    assert "student 40/40" in out
    assert "0.25" in out.split("student 40/40")[1]


def test_watch_of_a_hostile_log_moves_no_cursor(folder: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    with (folder / "metrics.jsonl").open("a") as log:
        log.write(row("\x1b[2J[red]x", 3, alarms=["\x1b]0;owned\x07"], **{"loss/\x1b[1m": "text", "monitor/gap": []}))
        log.write(json.dumps({"phase": "student", "step": 11, "seconds": 2, "alarms": 7, "monitor/x": "y"}) + "\n")
    code, out, err = cli("watch", folder, "--once")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "\x07" not in out


def test_watch_needs_a_run(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = cli("watch", tmp_path)
    assert code == 2
    assert "there is no run at" in err


# -- the live view ---------------------------------------------------------------------------------------------------------


def terminal() -> tuple[LiveView, io.StringIO]:
    out = io.StringIO()
    return LiveView(Console(file=out, force_terminal=True, width=160), Stop(), quiet=False), out


def progress(phase: str, step: int, steps: int, *, later: int = 0, gap: float | None = None, alarms: tuple[str, ...] = ()) -> Progress:
    return Progress(phase, step, steps, {"critic": float(step)}, step / 10, "", {} if gap is None else {"gap": gap}, alarms, later)


def test_live_view_says_how_long_the_whole_run_takes() -> None:
    view, _ = terminal()
    view.show(progress("teacher", 100, 400, later=3200))
    view.show(progress("teacher", 200, 400, later=3200))
    assert view.status() == "5 min 40 s left for all training"  # 3,400 steps at 10 a second
    view.show(progress("student", 100, 3200))
    view.show(progress("student", 200, 3200))
    assert view.status() == "5 min 0 s left"


def test_live_view_keeps_the_gap_and_the_last_alarm_in_sight() -> None:
    view, _ = terminal()
    for step, gap in ((10, 8.0), (20, 4.0), (30, 0.5)):
        view.show(progress("student", step, 100, gap=gap, alarms=("collapse",) if step == 20 else ()))
    assert view.status() == "gap █▄▁ 0.5   last alarm: collapse at step 20 of student   7 s left"


def test_live_view_draws_bars_and_smoothed_losses_on_a_terminal() -> None:
    view, out = terminal()
    assert view.live is not None
    with view.live:
        view.show(progress("student", 10, 100))
        view.show(progress("student", 20, 100))
    assert "student" in out.getvalue()
    assert "20/100" in out.getvalue()
    assert "critic 12" in out.getvalue()  # 10, and a fifth of the way to 20


def test_sparkline_and_duration() -> None:
    assert sparkline([1.0, 2.0, float("nan"), 8.0]) == "▁▂█"
    assert sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == ""
    assert len(sparkline([0.0] * 99)) == 24
    assert [duration(x) for x in (0.4, 59, 61, 3700)] == ["0 s", "59 s", "1 min 1 s", "1 h 1 min"]


def test_a_row_with_a_number_beyond_all_bounds_is_a_row() -> None:
    from matchlib.runs.record import parse_row

    row = parse_row('{"phase": "student", "step": 3, "loss/critic": 1' + "0" * 400 + ', "seconds": 2}')
    assert row is not None and row["loss/critic"] == float("inf") and row["step"] == 3 and row["seconds"] == 2
    assert parse_row('{"phase": "student", "step": 1' + "0" * 400 + "}") is None
