"""Alarms: what is planted is named; policies; what the readings say. The full table is benchmarks/results/alarms.json."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib.algebra.records import Batch, Condition
from matchlib.algebra.times import TimeDistribution
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import ArtifactError, DivergedError, SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json, read_tensors
from matchlib.plugins.losses import UID
from matchlib.training.checkpoint import Checkpoints
from matchlib.training.log import Log
from matchlib.training.monitor import Alarm, DistillationMonitor, Monitor, Readings
from matchlib.training.random import Streams
from matchlib.training.task import Learner, Task
from matchlib.training.trainer import Interrupted, Trainer, TrainerSettings

ROOT = Path(__file__).parents[2]


class Line(Task):
    """One weight, pulled to 1."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.learners, self.size = {"line": Learner(nn.Linear(1, 1), 1e-2)}, 4
        self.streams = Streams(0, torch.device("cpu"))

    def learner(self, step: int) -> str:
        return "line"

    def loss(self, step: int, rows: int) -> Tensor:
        x = torch.randn(rows, 1, generator=self.streams("x", step))
        return (self.learners["line"].module(x) - 1).square().mean()


class Sees(Monitor):
    """Raises an alarm in some looks."""

    def __init__(self, *on: int) -> None:
        self.on, self.looks = on, 0

    def look(self, step: int, skipped: dict[str, int]) -> Readings:
        self.looks += 1
        return Readings({"seen": 1.0}, (Alarm("odd", "something odd; do something"),) if self.looks in self.on else ())


def run(folder: Path, watch: Monitor, policy: str, said: list[str], every: int = 3) -> nn.Module:
    return Trainer(
        Line(),
        TrainerSettings(20, warmup=0, log_every=5, checkpoint_every=every, monitor_every=4, on_alarm=policy),
        phase="toy",
        checkpoints=Checkpoints(folder / "checkpoints", "toy"),
        log=Log(folder / "metrics.jsonl"),
        watch=watch,
        say=said.append,
    ).fit()["line"]


def test_a_warning_is_said_once_and_written_down(tmp_path: Path) -> None:
    said: list[str] = []
    run(tmp_path, Sees(2, 3, 5), "warn", said)
    assert said == [f"alarm (odd) at step {step} of toy: something odd; do something" for step in (8, 20)]  # 12 is the same alarm as 8
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "alarms" in row] == [8, 12, 20]
    assert [row["step"] for row in rows] == [4, 5, 8, 10, 12, 15, 16, 20]


def test_an_alarm_stops_the_run_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"step 8 of toy: alarm \(odd\): something odd.*toy-00000006\.safetensors"):
        run(tmp_path, Sees(2), "stop", [])


def test_a_roll_back_goes_on_from_the_last_trusted_checkpoint_with_half_of_the_rates(tmp_path: Path) -> None:
    """Looks at 4, 8, ..., checkpoints at 3, 6, ...: at an alarm at 8, only the checkpoint at 3 was found well by a later look."""
    said: list[str] = []
    rolled = run(tmp_path, Sees(2), "roll-back", said)
    assert "rolled back to" in said[1]
    assert "toy-00000003" in said[1]
    trainer = Trainer(Line(), TrainerSettings(20, warmup=0))
    for _ in range(3):
        trainer._turn()
    trainer._scale = 0.5
    by_hand = trainer.fit()["line"]
    assert all(torch.equal(a, b) for a, b in zip(rolled.parameters(), by_hand.parameters(), strict=True))
    assert read_tensors(tmp_path / "checkpoints" / "toy-00000020.safetensors")[1]["history"].count('"scale": 0.5') == 1


class Breaks(Monitor):
    """Breaks the weight right after a look, as if between two of them, which the next one sees."""

    def __init__(self, line: nn.Linear, at: int) -> None:
        self.line, self.at = line, at

    def look(self, step: int, skipped: dict[str, int]) -> Readings:
        broken = bool(self.line.weight.abs() > 1e3)
        if step == self.at:
            self.at = -1  # once
            with torch.no_grad():
                self.line.weight.fill_(1e4)
        return Readings({}, (Alarm("broken", "broken; do something"),) if broken else ())


def broken_run(
    folder: Path, stop: Callable[[Trainer], bool] = lambda trainer: False, every: int = 4, keep: int = 2
) -> tuple[nn.Module, list[str]]:
    """A run of 40 steps whose weight is broken after 16, which the look at 20 notices; resumed once if it is stopped."""
    said: list[str] = []
    for _ in range(2):
        line = Line()
        trainer = Trainer(
            line,
            TrainerSettings(40, warmup=0, checkpoint_every=every, monitor_every=4, on_alarm="roll-back"),
            phase="toy",
            checkpoints=Checkpoints(folder / "checkpoints", "toy", keep=keep),
            watch=Breaks(line.learners["line"].module, -1 if said else 16),
            say=said.append,
            stop=lambda: stop(trainer) and not said,  # noqa: B023
        )
        try:
            return trainer.fit()["line"], said
        except Interrupted as interrupted:
            said.append(str(interrupted))
    raise AssertionError("stopped twice")


@pytest.mark.parametrize(("every", "keep"), [(4, 2), (4, 1), (1, 2), (3, 1)])
def test_a_checkpoint_that_holds_the_damage_already_is_not_rolled_back_to(tmp_path: Path, every: int, keep: int) -> None:
    """A student fell apart at 500, was found to at 600, and was rolled back to 500 three times in vain.

    The look at 16 was the last that found nothing wrong, so what is trusted is from before it, however few checkpoints are kept.
    """
    made, said = broken_run(tmp_path, every=every, keep=keep)
    assert len(said) == 2
    assert f"toy-{15 // every * every:08d}" in said[1]
    assert made.weight.abs() < 10


def test_an_interruption_changes_nothing_of_a_roll_back(tmp_path: Path) -> None:
    """The checkpoint that the interruption writes, with the damage in it, must neither be trusted nor push out the one that is."""
    whole, _ = broken_run(tmp_path / "whole")
    resumed, said = broken_run(tmp_path / "resumed", stop=lambda trainer: trainer.step == 18)
    assert "interrupted after step 18" in said[0] and "toy-00000012" in said[2]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_best_checkpoint_that_is_gone_after_a_roll_back_is_forgotten(tmp_path: Path) -> None:
    """Judged 5, 1, 4, 4, .5 and 8 ever after; at the alarm after 20 the one of 1 has been replaced by that of .5, which is left behind."""
    judged = iter([9.0, 5.0, 1.0, 4.0, 4.0, 0.5, *[8.0] * 20])
    Trainer(
        Line(),
        TrainerSettings(40, warmup=0, checkpoint_every=4, monitor_every=4, on_alarm="roll-back"),
        phase="toy",
        checkpoints=Checkpoints(tmp_path / "checkpoints", "toy"),
        watch=Sees(6),
        judge=lambda modules: next(judged),
    ).fit()


def test_rolling_back_in_vain_ends(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="rolled back 3 times in vain"):
        run(tmp_path, Sees(*range(2, 99)), "roll-back", [])


def test_a_watch_changes_nothing(tmp_path: Path) -> None:
    options = {"steps": 40, "settings": {"trainer.batch_size": 32, "evaluation.draws": 1, "teacher.training.steps": 10}}
    made = []
    for every in (0, 10):
        options["settings"] |= {"trainer.monitor_every": every}
        made.append(matchlib.distill("flow", out=tmp_path / str(every), **options).module)
    assert all(torch.equal(a, b) for a, b in zip(*(module.parameters() for module in made), strict=True))


@pytest.mark.parametrize("bad", [{"on_alarm": "wran"}, {"monitor_every": -1}, {"micro_batch_size": 0}])
def test_wrong_settings_are_refused(bad: dict) -> None:
    with pytest.raises(SettingError):
        TrainerSettings(5, **bad)


# -- readings ------------------------------------------------------------------------------------------------------------------


class Shifted(nn.Module):
    """Generates N(-.5, .8^2)."""

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        return -0.5 + 0.8 * source


def gaussian_watch(critic: tuple[float, float]) -> DistillationMonitor:
    """Flow at t = .4, real data N(1, 1.3^2), generated N(-.5, .8^2), teacher exact, and a critic that is exact for some law."""
    model = replace(matchlib.families["flow"]().model(paired=False), times=TimeDistribution(0.4 * (1 - 1e-9), 0.4))
    x = 1 + 1.3 * torch.randn(20_000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = Dataset("line", Batch(x), Batch(x[:10]), 0.0, 1.0, None, (-4.0, 6.0))
    teacher = Teacher(GaussianField(model, Mixture.normal(1.0, 1.3)), model)
    of = Distillation(teacher, Shifted(), GaussianField(model, Mixture.normal(*critic)), UID())
    return DistillationMonitor(of, data, Streams(0, torch.device("cpu")), size=20_000)


def test_the_gap_at_the_best_critic_is_the_divergence() -> None:
    watch = gaussian_watch((-0.5, 0.8))
    found = watch._errors(*watch._points(0)[:2])
    assert abs(found["gap"] - 0.8852131) < 2.5 * found["gap/ci"]  # theory.md: by quadrature; 2.5 half-widths are 4.9 standard errors
    assert found["gap/ci"] < 0.05


def test_the_gap_at_another_critic_is_less() -> None:
    watch = gaussian_watch((0.0, 1.0))
    found = watch._errors(*watch._points(0)[:2])
    assert found["gap"] < 0.8852131 - 2 * found["gap/ci"]


def test_an_exact_teacher_is_better_than_a_multiple_of_the_state_and_a_critic_that_copies_it_as_good() -> None:
    watch = gaussian_watch((1.0, 1.3))
    found = watch._errors(*watch._points(0)[:2])
    assert found["teacher"] < 1
    assert found["critic"] == pytest.approx(1.0)


# -- alarms --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alarms(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """benchmarks/alarms.py, with its files elsewhere."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec = importlib.util.spec_from_file_location("alarms", ROOT / "benchmarks" / "alarms.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    module.PLACE = tmp_path_factory.mktemp("alarms")
    return module


@pytest.mark.parametrize("failure", ["wrong teacher sign", "NaN batch", "full disk"])
def test_planted_failures_are_named(alarms: ModuleType, failure: str) -> None:
    wanted, make, settings = alarms.FAILURES[failure]
    turns = {"trainer.monitor_every": 20, "trainer.batch_size": 64, "trainer.checkpoint_every": 20}
    found = alarms.planted(make, {**settings, **turns}, 40, full=failure == "full disk")
    assert found["alarms"][0].startswith(f"alarm ({wanted})")


def test_the_committed_table_names_every_failure_and_no_healthy_run() -> None:
    rows = read_json(ROOT / "benchmarks" / "results" / "alarms.json")["rows"]
    assert all(row["first"] == row["wanted"] for row in rows)
    assert sum(bool(row["wanted"]) for row in rows) == 6
    assert sum(not row["wanted"] for row in rows) == 10


def test_a_checkpoint_that_cannot_be_written_at_the_end_is_an_error_that_names_the_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, count = Checkpoints.write, iter(range(99))

    def full(*args: object) -> Path:
        if next(count) > 3:
            raise ArtifactError("no space left on device")
        return write(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(Checkpoints, "write", full)
    said: list[str] = []
    with pytest.raises(ArtifactError, match=r"no space left.*the last good one is .*toy-00000012"):
        run(tmp_path, Sees(), "warn", said)
    assert ["alarm (disk)" in line for line in said] == [True, True]


def readings(**other: float) -> dict[str, float]:
    healthy = {"teacher": 0.5, "moved": 0.3, "followed": 0.2, "behind": 0.9, "spread": 1.0, "diversity": 1.0, "saturation": 0.0}
    return healthy | other


@pytest.mark.parametrize(
    ("looks", "named"),
    [
        ([{}, {}], []),
        ([{"spread": 0.15}, {"spread": 0.8}], []),  # it has just set out
        ([{"spread": 0.15}, {"spread": 0.2}, {"spread": 0.25}], []),  # on its way
        ([{"spread": 0.2}, {"spread": 0.2}], ["collapse"]),
        ([{"diversity": 0.1}, {"diversity": 0.05}], ["collapse"]),
        ([{"followed": 0.01}], ["critic"]),
        ([{"followed": 0.01, "behind": 0.1}], []),  # it has arrived: nothing to learn
        ([{"followed": 0.01, "moved": 0.02}], []),  # nor has the student anywhere to go
        ([{"spread": 3.0, "followed": 0.01}], ["student-rate"]),
        ([{"moved": 0.0}], ["still"]),
        ([{"teacher": 4.0}], ["teacher"]),
    ],
)
def test_readings_that_are_wrong_are_named_and_others_are_not(looks: list[dict[str, float]], named: list[str]) -> None:
    watch = gaussian_watch((0.0, 1.0))
    found = [watch._alarms(readings(**look)) for look in looks]
    assert [alarm.name for alarm in found[-1]] == named
    assert not any(found[:-1])


def test_a_roll_back_before_the_first_checkpoint_starts_again(tmp_path: Path) -> None:
    said: list[str] = []
    run(tmp_path, Sees(1), "roll-back", said, every=10)
    assert any("rolled back to" in line and "00000000" in line for line in said)
