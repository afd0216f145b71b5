"""matchlib.training.callbacks: log, progress, alarms and their policies, and the best checkpoint."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.trainings import Line, StopAt, Toy, equal, toy_trainer, weights
from torch import nn

import matchlib
from matchlib.errors import ArtifactError, DivergedError, Interrupted
from matchlib.io import read_tensors
from matchlib.runs.page.curves import alarms_of
from matchlib.training.alarms import Raised
from matchlib.training.callbacks import JSONLog, KeepBest, Progress, ProgressCallback, Reporting, standard_callbacks
from matchlib.training.checkpoint import Checkpoints
from matchlib.training.monitor import Monitor, Readings
from matchlib.training.settings import TrainerSettings
from matchlib.training.trainer import Trainer


@pytest.fixture
def notices(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """Returns the lines that were logged so far."""
    with caplog.at_level(logging.INFO, logger="matchlib"):
        yield lambda: [record.getMessage() for record in caplog.records]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- the log and progress --------------------------------------------------------------------------------------------------


def test_json_log_has_a_row_with_losses_at_every_interval(tmp_path: Path) -> None:
    toy_trainer(None, JSONLog(tmp_path / "log.jsonl"), log_every=6).fit()
    assert [row["step"] for row in rows(tmp_path / "log.jsonl")] == [6, 12, 18, 20]
    assert set(rows(tmp_path / "log.jsonl")[0]) == {
        *("phase", "step", "seconds"),
        *(f"{kind}/{name}" for kind in ("loss", "grad_norm") for name in ("left", "middle", "right")),
    }


def test_json_log_that_cannot_be_written_is_a_warning(tmp_path: Path, notices: Callable[[], list[str]]) -> None:
    """A disk that is full at a row of the log does not end the training."""
    (tmp_path / "log.jsonl").mkdir()
    toy_trainer(None, JSONLog(tmp_path / "log.jsonl")).fit()
    assert len(notices()) == 1
    assert "log.jsonl cannot be written" in notices()[0]


def test_json_log_begins_a_new_line_after_a_row_that_was_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, path = JSONLog(tmp_path / "log.jsonl"), tmp_path / "log.jsonl"
    count = iter(range(99))

    def full(moment: str, file: Path) -> None:
        if moment == "begin" and next(count) == 1:
            with file.open("a") as log_file:
                log_file.write('{"phase": "to')
            raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("matchlib.io.on_write", full)
        toy_trainer(None, log).fit()
    log.rewind("toy", 20)
    assert [row["step"] for row in rows(path)] == [4, 12, 16, 20]


@pytest.mark.parametrize(
    "line", [b"5", b"\xff\xfe", b"[1, 2]", b"null", b'{"phase": "toy"}', b'{"phase": "toy", "step": "x"}', b'{"phase', b"[" * 9999]
)
def test_json_log_rewind_drops_a_line_that_is_no_row(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"phase": "other", "step": 99}\n' + line + b'\n{"phase": "toy", "step": 3}\n{"phase": "toy", "step": 4}\n')
    JSONLog(path).rewind("toy", 3)
    assert rows(path) == [{"phase": "other", "step": 99}, {"phase": "toy", "step": 3}]


def test_progress_callback_hands_on_every_row_with_losses() -> None:
    shown: list[Progress] = []
    toy_trainer(None, ProgressCallback(shown.append)).fit()
    assert [(row.phase, row.step, row.steps) for row in shown] == [("toy", step, 20) for step in (4, 8, 12, 16, 20)]
    assert shown[0].losses.keys() == {"left", "middle", "right"}
    assert all(row.seconds > 0 for row in shown)


def test_reporting_takes_no_more_than_its_share_of_the_time(tmp_path: Path) -> None:
    """The first report has to fit by a guess, later ones by what the one before took."""
    for guess, share, expected in ((0.0, 1.0, True), (60.0, 0.01, False)):
        steps: list[int] = []
        trainer = toy_trainer(tmp_path / str(guess), Reporting(lambda trainer, seen=steps: seen.append(trainer.steps_done), share, guess))  # type: ignore[misc]
        trainer.fit()
        assert bool(steps) is expected
        assert all(trainer.checkpoints.file(step).exists() for step in steps[-1:])  # type: ignore[union-attr]


# -- alarms ----------------------------------------------------------------------------------------------------------------


class AlarmAt(Monitor):
    """Raises an alarm in some measurements, counted from 1."""

    def __init__(self, *at: int) -> None:
        self.at, self.count = at, 0

    def measure(self, step: int, skipped: dict[str, int]) -> Readings:
        self.count += 1
        return Readings({"count": 1.0}, (Raised("odd", "something odd; do something", curable=True),) if self.count in self.at else ())


def line_trainer(folder: Path, monitor: Monitor, policy: str, every: int = 3) -> Trainer:
    settings = TrainerSettings(steps=20, warmup=0, log_every=5, checkpoint_every=every, monitor_every=4, on_alarm=policy)  # type: ignore[arg-type]
    return Trainer(
        Line(),
        settings,
        phase="toy",
        checkpoints=Checkpoints(folder / "checkpoints", "toy"),
        callbacks=standard_callbacks(settings, log=folder / "metrics.jsonl", monitor=monitor),
    )


def test_monitoring_announces_an_alarm_once_and_writes_it_down(tmp_path: Path, notices: Callable[[], list[str]]) -> None:
    line_trainer(tmp_path, AlarmAt(2, 3, 5), "warn").fit()
    assert notices() == [f"alarm (odd) at step {step} of toy: something odd; do something" for step in (8, 20)]  # 12 is the same as 8
    log = rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in log if "alarms" in row] == [8, 12, 20]
    assert [row["step"] for row in log if "monitor/count" in row] == [4, 8, 12, 16, 20]
    assert [row["step"] for row in log] == [4, 5, 8, 10, 12, 15, 16, 20]


def test_alarms_are_warnings_and_notes_are_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="matchlib"):
        line_trainer(tmp_path, AlarmAt(2), "roll-back").fit()
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


def test_stop_on_alarm_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 8 of toy: alarm \(odd\): something odd.*toy-00000006\.safetensors"):
        line_trainer(tmp_path, AlarmAt(2), "stop").fit()
    assert rows(tmp_path / "metrics.jsonl")[-1]["alarms"] == ["odd"]


def test_roll_back_goes_on_from_the_last_trusted_checkpoint_with_half_of_the_rates(
    tmp_path: Path, notices: Callable[[], list[str]]
) -> None:
    """Measured at 4, 8, ..., checkpoints at 3, 6, ...: at an alarm at 8, only the checkpoint at 3 was found well by a later measurement."""
    rolled = line_trainer(tmp_path, AlarmAt(2), "roll-back").fit()
    assert "rolled back to" in notices()[1]
    assert "toy-00000003" in notices()[1]
    trainer = Trainer(Line(), TrainerSettings(steps=20, warmup=0))
    for _ in range(3):
        trainer.step()
    trainer.lr_scale = 0.5
    assert equal(weights(rolled), weights(trainer.fit()))
    assert read_tensors(tmp_path / "checkpoints" / "toy-00000020.safetensors")[1]["history"].count('"lr_scale": 0.5') == 1
    (kept,) = [row for row in rows(tmp_path / "metrics.jsonl") if "alarms" in row]
    assert (kept["step"], kept["rolled_back_from"], kept["lr_scale"], kept["alarms"]) == (3, 8, 0.5, ["odd"])
    assert [(step, name) for step, name, _ in alarms_of([kept])] == [(8, "odd")]


class Breaks(Monitor):
    """Breaks the weight right after a measurement, as if between two of them, which the next one notices."""

    def __init__(self, line: nn.Linear, at: int) -> None:
        self.line, self.at = line, at

    def measure(self, step: int, skipped: dict[str, int]) -> Readings:
        broken = bool(self.line.weight.abs() > 1e3)
        if step == self.at:
            self.at = -1  # once
            with torch.no_grad():
                self.line.weight.fill_(1e4)
        return Readings({}, (Raised("broken", "broken; do something", curable=True),) if broken else ())


def broken_run(folder: Path, stop_at: int | None = None, every: int = 4, keep: int = 2) -> nn.Module:
    """A run of 40 steps whose weight is broken after 16, which is measured at 20; resumed once if it is stopped."""
    settings = TrainerSettings(steps=40, warmup=0, checkpoint_every=every, monitor_every=4, on_alarm="roll-back")
    for stop, at in ((stop_at, 16), (None, -1)):
        line = Line()
        trainer = Trainer(
            line,
            settings,
            phase="toy",
            checkpoints=Checkpoints(folder / "checkpoints", "toy", keep_last=keep),
            callbacks=standard_callbacks(settings, monitor=Breaks(line.learners["line"].module, at)),  # type: ignore[arg-type]
            should_stop=StopAt(stop),
        )
        try:
            return trainer.fit()["line"]
        except Interrupted as interrupted:
            assert f"after step {stop_at} " in str(interrupted)
    raise AssertionError("stopped twice")


@pytest.mark.parametrize(("every", "keep"), [(4, 2), (4, 1), (1, 2), (3, 1)])
def test_roll_back_does_not_go_to_a_checkpoint_that_holds_the_damage_already(
    tmp_path: Path, every: int, keep: int, notices: Callable[[], list[str]]
) -> None:
    """A student fell apart at 500, was found to at 600, and was rolled back to 500 three times in vain.

    The measurement at 16 was the last that found nothing wrong, so what is trusted is from before it, however few checkpoints are kept.
    """
    line = broken_run(tmp_path, every=every, keep=keep)
    assert len(notices()) == 2
    assert f"toy-{15 // every * every:08d}" in notices()[1]
    assert line.weight.abs() < 10


def test_roll_back_is_the_same_after_an_interruption(tmp_path: Path, notices: Callable[[], list[str]]) -> None:
    """The checkpoint that the interruption writes, with the damage in it, must neither be trusted nor push out the one that is."""
    whole = broken_run(tmp_path / "whole")
    resumed = broken_run(tmp_path / "resumed", stop_at=18)
    assert "toy-00000012" in notices()[-1]
    assert equal(list(whole.parameters()), list(resumed.parameters()))


def test_roll_back_in_vain_ends(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"rolled back 3 times in vain.* in a new one \(--out\)"):
        line_trainer(tmp_path, AlarmAt(*range(2, 99)), "roll-back").fit()


def test_roll_back_before_the_first_checkpoint_starts_again(tmp_path: Path, notices: Callable[[], list[str]]) -> None:
    line_trainer(tmp_path, AlarmAt(1), "roll-back", every=10).fit()
    assert any("rolled back to" in line and "00000000" in line for line in notices())


@pytest.mark.runs
def test_monitoring_changes_no_weight(tmp_path: Path) -> None:
    options = {"trainer.batch_size": 32, "evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",), "teacher.training.steps": 10}
    students = [
        matchlib.distill("flow", steps=40, out=tmp_path / str(every), settings=options | {"trainer.monitor_every": every}).module
        for every in (0, 10)
    ]
    assert equal(*(list(student.parameters()) for student in students))


def test_a_checkpoint_that_cannot_be_written_is_an_alarm_and_at_the_end_an_error_that_names_the_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notices: Callable[[], list[str]]
) -> None:
    write, count = Checkpoints.write, iter(range(99))

    def full(*args: Any) -> Path:
        if next(count) > 3:
            raise ArtifactError("no space left on device")
        return write(*args)

    monkeypatch.setattr(Checkpoints, "write", full)
    with pytest.raises(ArtifactError, match=r"no space left.*the last good checkpoint is .*toy-00000012"):
        line_trainer(tmp_path, AlarmAt(), "warn").fit()
    assert ["alarm (disk)" in line for line in notices()] == [True, True]


# -- the best checkpoint ---------------------------------------------------------------------------------------------------


def scored(folder: Path, values: dict[int, float], stop_at: int | None = None) -> dict[str, nn.Module]:
    """A training whose checkpoints have these scores, by step."""
    trainer = Trainer(
        Toy(),
        TrainerSettings(steps=20, warmup=3, checkpoint_every=5),
        phase="toy",
        checkpoints=Checkpoints(folder / "checkpoints", "toy", keep_last=1),
        callbacks=[KeepBest(lambda modules: values[trainer.steps_done])],
        should_stop=StopAt(stop_at),
    )
    return trainer.fit()


def test_keep_best_ends_a_training_with_its_best_checkpoint(tmp_path: Path, notices: Callable[[], list[str]]) -> None:
    best = scored(tmp_path, {5: 3.0, 10: 1.0, 15: 2.0, 20: 4.0})
    assert notices() == ["toy: the checkpoint after step 10 has the best score (1), and is what is kept"]
    assert [file.name for file in sorted((tmp_path / "checkpoints").iterdir())] == ["toy-00000010.safetensors", "toy-00000020.safetensors"]
    last = scored(tmp_path / "last", {5: 3.0, 10: 2.0, 15: 1.5, 20: 1.0})
    early = Trainer(Toy(), TrainerSettings(steps=20, warmup=3))
    for _ in range(10):
        early.step()
    assert equal(weights(best), weights(early.averaged()))
    assert not any(torch.equal(a, b) for a, b in zip(weights(best), weights(last), strict=True))


def test_keep_best_prefers_no_score_that_is_not_finite(tmp_path: Path, notices: Callable[[], list[str]]) -> None:
    scored(tmp_path, {5: math.nan, 10: 1.0, 15: 0.5, 20: math.inf})
    assert notices() == ["toy: the checkpoint after step 15 has the best score (0.5), and is what is kept"]


def test_keep_best_keeps_the_one_before_where_the_best_cannot_be_written(
    tmp_path: Path, notices: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Checkpoints.write

    def full(checkpoints: Checkpoints, step: int, *args: Any) -> Path:
        if step == 10:
            raise ArtifactError("no space left on device")
        return write(checkpoints, step, *args)

    monkeypatch.setattr(Checkpoints, "write", full)
    scored(tmp_path, {5: 3.0, 10: 1.0, 15: 3.5, 20: 4.0})
    assert notices()[-1] == "toy: the checkpoint after step 5 has the best score (3), and is what is kept"


def test_keep_best_knows_the_best_after_an_interruption(tmp_path: Path, notices: Callable[[], list[str]]) -> None:
    values = {5: 3.0, 10: 1.0, 12: 0.5, 15: 2.0, 20: 4.0}  # that of the interruption is not scored
    straight = scored(tmp_path / "straight", values)
    with pytest.raises(Interrupted):
        scored(tmp_path / "parted", values, stop_at=12)
    resumed = scored(tmp_path / "parted", values)
    assert len(notices()) == 2
    assert equal(weights(straight), weights(resumed))


def test_keep_best_forgets_a_checkpoint_that_is_gone_after_a_roll_back(tmp_path: Path) -> None:
    """Scored 5, 1, 4, 4, .5 and 8 ever after; at the alarm after 20 the one of 1 has been replaced by that of .5, which is left behind."""
    values = iter([9.0, 5.0, 1.0, 4.0, 4.0, 0.5, *[8.0] * 20])
    settings = TrainerSettings(steps=40, warmup=0, checkpoint_every=4, monitor_every=4, on_alarm="roll-back")
    Trainer(
        Line(),
        settings,
        phase="toy",
        checkpoints=Checkpoints(tmp_path / "checkpoints", "toy"),
        callbacks=standard_callbacks(settings, monitor=AlarmAt(6), score=lambda modules: next(values)),
    ).fit()


def test_roll_back_leaves_alone_what_lower_rates_do_not_cure(tmp_path: Path) -> None:
    """A teacher with the wrong sign stays wrong at any rate: the alarm is told, and the run goes on."""

    class Hint(Monitor):
        def measure(self, step: int, skipped: dict[str, int]) -> Readings:
            return Readings({}, (Raised("hint", "look at it"),))

    trainer = line_trainer(tmp_path, Hint(), "roll-back")
    trainer.fit()
    assert trainer.steps_done == 20
    assert trainer.lr_scale == 1.0
