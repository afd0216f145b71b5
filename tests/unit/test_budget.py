"""A run that takes a given time: how times are written, and what follows from measured costs."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import matchlib
from matchlib.algebra.records import Condition
from matchlib.distillation.distillation import Distillation
from matchlib.errors import Interrupted, SettingError
from matchlib.evaluation.work import Work
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.runs import api, budget
from matchlib.runs.budget import Costs, Schedule, fitted, seconds_of, seconds_per_step
from matchlib.runs.build import build, sized, sizes_of
from matchlib.runs.run import Run
from matchlib.runs.settings import RunSettings, from_config, resolve
from matchlib.training.distributed import SingleProcess
from matchlib.training.tracker import TrackedPhase, Tracker, TrackerSession

SMALL = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "data.name": "moons", "trainer.batch_size": 16}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), ("1h 0m", None), (2.5, 2.5)])
def test_seconds_of_a_length_of_time(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(SettingError, match="1h30m"):
            seconds_of(text)
    else:
        assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "-5m", "0s", "ten minutes", 0, float("nan"), float("inf"), True, None])
def test_seconds_of_refuses_what_is_no_time(text: object) -> None:
    with pytest.raises(SettingError, match="a time is"):
        seconds_of(text)  # type: ignore[arg-type]


def test_fitted_gives_the_time_to_what_the_settings_leave_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """With known costs the steps follow: 60% of what scoring leaves is the teacher's, and what is set stays and is counted."""
    monkeypatch.setattr(budget, "measured", lambda *_: Costs({"teacher": 0.01, "student": 0.04}, (10.0, 0.001)))

    def steps(**settings: object) -> tuple[int, int, int]:
        chosen, _ = fitted(resolve("distill", settings={**SMALL, **settings}), build, 1000)
        return chosen.teacher.training.steps, chosen.trainer.steps, (chosen.evaluation.samples or 0) * (chosen.evaluation.draws or 0)

    teacher, student, scored = steps()
    assert scored == pytest.approx(10_000, rel=0.1)
    assert teacher * 0.01 / 0.6 == pytest.approx(student * 0.04 / 0.4, rel=0.01)
    assert teacher * 0.01 + student * 0.04 == pytest.approx(0.94 * (1000 - 20), rel=0.02)
    half = steps(**{"teacher.training.steps": 30_000})
    assert half[0] == 30_000
    assert half[1] * 0.04 == pytest.approx(0.94 * 980 - 300, rel=0.02)
    monkeypatch.setattr(budget, "measured", lambda *_: Costs({"teacher": 0.01, "student": 0.04}, (10.0, 1.0)))
    assert steps()[2] <= 500
    monkeypatch.setattr(budget, "measured", lambda *_: Costs({"teacher": 10.0, "student": 10.0}, (10.0, 0.0)))
    with pytest.raises(SettingError, match="the least that makes sense"):
        steps()


@pytest.mark.slow
@pytest.mark.runs
def test_distill_takes_the_time_that_it_is_given(tmp_path: Path) -> None:
    """The whole call, scores included, and its numbers are recorded for a resume."""
    begin = time.perf_counter()
    matchlib.distill(data="moons", out=tmp_path / "run", time="100s")
    assert time.perf_counter() - begin == pytest.approx(100, rel=0.1)
    recorded = from_config(tmp_path / "run" / "config.yaml")
    assert recorded.trainer.steps > 200
    assert recorded.evaluation.samples is not None


def test_schedule_gives_the_student_what_the_teacher_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the speed at which the teacher was trained: (end - now - scoring * pace) / (cost * pace)."""
    monkeypatch.setattr(budget.time, "perf_counter", lambda: 700.0)
    settings = resolve("distill", settings={**SMALL, "trainer.steps": 1000})
    schedule = Schedule(end=1000.0, teacher=400.0, student=0.2, scoring=50.0)
    assert schedule.revised(settings, 400.0).trainer.steps == int(0.94 * 250 / 0.2)
    assert schedule.revised(settings, 600.0).trainer.steps == pytest.approx(0.94 * (300 - 75) / 0.3, abs=1)
    assert schedule.revised(settings, 1.0).trainer.steps == int(0.94 * 250 / 0.2)  # from the cache: it says nothing of the machine
    assert schedule.revised(settings, 4000.0).trainer.steps == 500
    assert schedule.revised(settings, 100.0).trainer.steps == 2000
    assert schedule.revised(settings, 600.0).teacher == settings.teacher


def test_fitted_refuses_a_time_where_there_are_no_steps_to_choose() -> None:
    given = {**SMALL, "teacher.training.steps": 3, "trainer.steps": 3}
    with pytest.raises(SettingError, match="leave the time out"):
        fitted(resolve("distill", settings=given), build, 60)
    with pytest.raises(SettingError, match="leave the time out"):
        fitted(resolve("train", settings={"data.name": "moons", "teacher.name": "gaussian"}), build, 60)


def test_fitted_leaves_a_teacher_that_is_a_formula_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "seconds_per_step", lambda *_, **__: 0.01)
    monkeypatch.setattr(budget, "_cost_of_scoring", lambda *_: (1.0, 0.0))
    settings = resolve("distill", settings={"data.name": "moons", "teacher.name": "gaussian"})
    chosen, schedule = fitted(settings, build, 100)
    assert schedule is None
    assert chosen.teacher == settings.teacher
    assert chosen.trainer.steps == pytest.approx(0.94 * 99 / 0.01, rel=0.01)


def test_fitted_counts_the_scores_that_are_made_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A score of 1,000 samples of the student takes (fixed + 1,000 each / 3), and that by how often it is made is a step's part."""
    monkeypatch.setattr(budget, "measured", lambda *_: Costs({"teacher": 0.01, "student": 0.04}, (1.0, 0.003)))

    def steps(**settings: object) -> int:
        return fitted(resolve("distill", settings={**SMALL, "evaluation.samples": 1000, **settings}), build, 1000)[0].trainer.steps

    plain = steps()
    assert steps(**{"evaluation.every": 100}) == pytest.approx(plain * 0.04 / (0.04 + (1 + 1) / 100), rel=0.01)
    often = {"trainer.keep_best_by": "frechet-raw", "trainer.checkpoint_every": 50}
    assert steps(**often) == pytest.approx(plain * 0.04 / (0.04 + (1 + 1) / 50), rel=0.01)


@pytest.mark.runs
def test_a_run_goes_on_with_the_steps_that_were_revised(tmp_path: Path) -> None:
    """They stand in ``config.yaml``, and a run that is killed from then on goes on with them."""
    quick = {**SMALL, "teacher.training.steps": 2, "evaluation.samples": 20, "trainer.monitor_every": 0}
    settings, asked = resolve("distill", settings={**quick, "trainer.steps": 4}), []

    def revise(settings: RunSettings, took: float) -> RunSettings:
        asked.append(took)
        return settings.model_copy(update={"trainer": settings.trainer.model_copy(update={"steps": 7})})

    (tmp_path / "run").mkdir()
    Run(settings, build(settings), tmp_path / "run", revise=revise).execute()
    assert len(asked) == 1
    assert from_config(tmp_path / "run" / "config.yaml").trainer.steps == 7
    assert (tmp_path / "run" / "checkpoints" / "student-00000007.safetensors").is_file()
    shutil.rmtree(tmp_path / "run" / "student")
    (tmp_path / "run" / "evaluation.json").unlink()
    assert matchlib.resume(tmp_path / "run").sample(2).shape == (2, 2)


def test_fitted_takes_the_slowest_network_that_can_be_trained_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step costs what a network is wide; 60% of 1,000 s must hold 2,500 steps."""
    data = matchlib.Dataset.from_arrays("mine", torch.randn(40, 1, 28, 28, generator=torch.Generator().manual_seed(0)).numpy())
    monkeypatch.setattr(budget, "measured", lambda *_: Costs({"teacher": 0.01, "student": 0.04}, (1.0, 0.0)))
    price = {"mlp": lambda spec: spec["width"] / 3840, "unet": lambda spec: spec["channels"] / 100, "dit": lambda spec: 9.0}

    def step(settings: RunSettings, components: object, phase: str, **how: object) -> float:
        network = settings.teacher.network
        return price[network["name"]](network)

    monkeypatch.setattr(budget, "seconds_per_step", step)

    def network(seconds: float, **settings: object) -> dict:
        chosen = resolve("distill", settings={"data.name": "python:mine", **settings})
        return fitted(chosen, lambda s: build(s, data=data), seconds)[0].teacher.network

    assert network(1000) == {"name": "mlp", "width": 768, "depth": 4}
    assert network(500) == {"name": "mlp", "width": 384, "depth": 4}
    assert network(2000)["name"] == "unet"
    assert network(2000, **{"teacher.network.name": "mlp"}) == {"name": "mlp"}  # what is named stays


def test_sized_networks_fit_their_events() -> None:
    for shape in ((2,), (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 17, 40)):
        spec = NetworkSpec(shape, 3)
        for name in matchlib.networks:
            for network in sizes_of(name, spec):
                module = matchlib.networks.build(network, spec)
                assert module(torch.randn(2, *shape), torch.rand(2), Condition()).shape == (2, *shape)
    assert sized({"name": "mlp"}, NetworkSpec((2,))) == {"name": "mlp", "width": 192, "depth": 3}
    assert sized({"name": "mlp", "width": 7}, NetworkSpec((2,))) == {"name": "mlp", "width": 7}
    assert sizes_of("unet", NetworkSpec((1, 8, 8))) == []


def test_fitted_hears_a_stop(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="measured"):
        fitted(resolve("distill", settings=SMALL), build, 60, lambda: True)


def test_seconds_per_step_shows_nothing_to_trackers_and_scores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is only measured must not appear in anybody's tracker."""

    class Loud(Tracker):
        package, extra = "torch", "none"

        def open(self, phase: TrackedPhase) -> TrackerSession:
            raise AssertionError("a measured run was shown")

    monkeypatch.setitem(matchlib.trackers._plugins, "loud", Loud)
    told: list[str] = []
    monkeypatch.setattr(logging.getLogger("matchlib"), "warning", lambda message, *values: told.append(message % values))
    settings = resolve("distill", settings={**SMALL, "trainer.trackers": ["loud"], "evaluation.every": 1})
    assert seconds_per_step(settings, build(settings), "student") > 0
    assert not [line for line in told if "loud" in line]


def test_seconds_per_step_is_a_mean_over_whole_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of four is the student's, however many steps are timed."""
    loss = Distillation.student_loss

    def slow(self: Distillation, **at: Any) -> torch.Tensor:
        time.sleep(0.6)
        return loss(self, **at)

    monkeypatch.setattr(Distillation, "student_loss", slow)
    settings = resolve("distill", settings={**SMALL, "trainer.critic_steps": 3})
    assert 0.15 <= seconds_per_step(settings, build(settings), "student") < 0.18


def test_start_run_refuses_a_time_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one process would measure, and wait for the others."""

    class Several(SingleProcess):
        size = 2

    monkeypatch.setattr(api, "strategy", lambda kind: Several())
    with pytest.raises(SettingError, match="for one process"):
        api.start_run(resolve("distill", settings=SMALL), time="60s")


def test_cost_of_scoring_is_a_line_through_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports of the first look count for nothing; where there is time for one more, samples are taken to cost all of it."""
    settings = resolve("distill", settings=SMALL)
    components = build(settings)
    for seconds, expected in ((1e9, (0.5, 0.002)), (0.0, (0.0, (0.5 + 64 * 0.002) / 64))):
        first = iter([3.0])
        monkeypatch.setattr(budget, "reference_of", lambda *_, **__: None)
        monkeypatch.setattr(budget, "_seconds_of_scoring", lambda s, c, n, w, first=first: next(first, 0.0) + 0.5 + 0.002 * n)
        assert budget._cost_of_scoring(settings, components, seconds, Work()) == pytest.approx(expected)


def test_looks_at_the_cost_of_scoring_take_no_more_than_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at four times the samples is not begun that would take longer than what is left."""
    settings, now = resolve("distill", settings=SMALL), [0.0]
    components = build(settings)
    monkeypatch.setattr(budget, "reference_of", lambda *_, **__: None)
    monkeypatch.setattr(budget.time, "perf_counter", lambda: now[0])

    def look(s: object, c: object, n: int, w: object) -> float:
        now[0] += 0.5 * n
        return 0.5 * n

    monkeypatch.setattr(budget, "_seconds_of_scoring", look)
    for seconds, spent in ((1000.0, 64.0), (2000.0, 128.0), (3000.0, 256.0)):
        now[0] = 0.0
        assert budget._cost_of_scoring(settings, components, seconds, Work())[1] == pytest.approx(0.5)
        assert now[0] <= max(budget.LOOKS * seconds, 32.0) and now[0] <= spent


def test_a_step_is_timed_no_longer_than_it_takes_to_see_that_batches_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, float] = {}

    def price(settings: RunSettings, components: object, phase: str, *, enough: float = float("inf"), **_: object) -> float:
        asked[phase] = enough
        return 1.0

    monkeypatch.setattr(budget, "seconds_per_step", price)
    monkeypatch.setattr(budget, "_cost_of_scoring", lambda *_: (0.0, 0.0))
    settings = resolve("distill", settings={"data.name": "moons", "trainer.batch_size": 64})
    budget.measured(settings, build(settings), 1000, lambda: False)
    assert asked == {"teacher": pytest.approx(0.8 * 1000 * 0.6 / 2500), "student": float("inf")}


def test_fitted_halves_batches_that_leave_no_time_for_enough_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a second for 256 samples, 1,000 s hold 320 steps of a student: half of the samples make room for 1,600."""
    monkeypatch.setattr(budget, "measured", lambda *_: Costs({"student": 1.0}, (1.0, 0.0)))

    def price(settings: RunSettings, components: object, phase: str, **_: object) -> float:
        return settings.trainer.batch_size / 256

    monkeypatch.setattr(budget, "seconds_per_step", price)
    free = {"teacher.network": SMALL["teacher.network"], "data.name": "moons", "teacher.training.steps": 1}

    def chosen(**settings: object) -> tuple[int, int]:
        found = fitted(resolve("distill", settings={**free, **settings}), build, 1000)[0].trainer
        return found.batch_size, found.steps

    batch, steps = chosen()
    assert batch == 128 and steps == pytest.approx(0.94 * 999 * 2, rel=0.02)
    assert chosen(**{"trainer.batch_size": 256})[0] == 256  # what is set stays
    monkeypatch.setattr(budget, "measured", lambda *_: Costs({"student": 100.0}, (1.0, 0.0)))
    monkeypatch.setattr(budget, "seconds_per_step", lambda settings, *_, **__: settings.trainer.batch_size / 2560)
    assert chosen()[0] == 32


def test_cost_of_scoring_is_of_the_samples_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve held-out samples, not 64: each cost a second, and so will the run's."""
    data = matchlib.Dataset.from_arrays("mine", torch.randn(60, 2, generator=torch.Generator().manual_seed(0)).numpy())
    settings = resolve("distill", settings={**SMALL, "data.name": "python:mine"})
    asked: list[int] = []

    def seconds(settings: RunSettings, components: object, n: int, work: Work) -> float:
        asked.append(n)
        return float(n)

    monkeypatch.setattr(budget, "_seconds_of_scoring", seconds)
    held_out = len(data.held_out.data)
    fixed, each = budget._cost_of_scoring(settings, build(settings, data=data), 1e6, Work())
    assert fixed + each * held_out == pytest.approx(held_out)
    assert max(asked) == held_out
