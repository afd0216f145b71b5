"""matchlib.training.monitor: what the readings say, against exact values."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fixtures.trainings import distillation_trainer
from torch import Tensor, nn

import matchlib
from matchlib.algebra.records import Batch, Condition
from matchlib.algebra.times import TimeDistribution, time_of
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.loss import DistillationLoss
from matchlib.evaluation.reference import Extractor
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.teacher import Teacher
from matchlib.plugins.losses import UID
from matchlib.plugins.tasks import DistillationTask
from matchlib.training.callbacks import Monitoring
from matchlib.training.checkpoint import Checkpoints
from matchlib.training.monitor import DistillationMonitor, Monitor, Readings
from matchlib.training.random import Streams
from matchlib.training.trainer import Trainer


class Shifted(nn.Module):
    """Generates N(-.5, .8^2)."""

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        return -0.5 + 0.8 * source


class Linear(nn.Module):
    """A field with a weight, for the critic's gradient."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.scale = field, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.scale * self.field(state, time, condition)


def gaussian_readings(critic: tuple[float, float]) -> dict[str, float]:
    """Flow at t = .4, real data N(1, 1.3^2), generated N(-.5, .8^2), teacher exact, and a critic that is exact for some distribution."""
    model = replace(matchlib.families["flow"]().model(paired=False), times=TimeDistribution(0.4 * (1 - 1e-9), 0.4))
    size = 20_000
    x = 1 + 1.3 * torch.randn(size, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = Dataset("line", Batch(x), Batch(x[:10]), 0.0, 1.0, None, (-4.0, 6.0))
    teacher = Teacher(GaussianField(model, Mixture.normal(1.0, 1.3)), model)
    distillation = Distillation(teacher, Shifted(), Linear(GaussianField(model, Mixture.normal(*critic))), UID())
    streams = Streams(0, torch.device("cpu"))
    monitor = DistillationMonitor(distillation, data, streams, size=size)
    prompt, real = (data.draw(size, streams(name)) for name in ("prompt", "real"))
    with torch.no_grad():
        generator = streams("point")
        generated = distillation.sample_path(distillation.generate(prompt, generator=generator), real=real, generator=generator)
        return monitor.errors(generated, distillation.model.sample_path(real, generator=generator))


def test_monitor_gap_at_the_best_critic_is_the_divergence() -> None:
    readings = gaussian_readings((-0.5, 0.8))
    assert abs(readings["gap"] - 0.8852131) < 2.5 * readings["gap/ci"]  # by quadrature; 2.5 half-widths are 4.9 standard errors
    assert readings["gap/ci"] < 0.05


def test_monitor_gap_at_another_critic_is_less() -> None:
    readings = gaussian_readings((0.0, 1.0))
    assert readings["gap"] < 0.8852131 - 2 * readings["gap/ci"]


def test_monitor_errors_of_an_exact_teacher_and_of_a_critic_that_copies_it() -> None:
    readings = gaussian_readings((1.0, 1.3))
    assert readings["teacher_error"] < 1
    assert readings["critic_error"] == pytest.approx(1.0)


@pytest.mark.parametrize("family", ["flow", "diffusion", "diffusion-vp"])
def test_monitor_change_of_the_critic_does_not_depend_on_what_it_predicts(family: str) -> None:
    """For Gaussian data, at noise over signal 2/3: the posterior mean moves by .5 (4/9) / (s^2 + 4/9) where the data's mean does by .5."""
    model = matchlib.families[family]().model(paired=False)
    t = time_of(model.interpolant, math.log(2 / 3), model.times)
    model = replace(model, times=TimeDistribution(t * (1 - 1e-9), t))
    size, mean, variance, noise = 2000, 1.0, 1.69, 4 / 9
    x = mean + math.sqrt(variance) * torch.randn(size, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = Dataset("line", Batch(x), Batch(x[:10]), 0.0, 1.0, None, (-4.0, 6.0))
    critic = Linear(GaussianField(model, Mixture.normal(1.0, 1.3)))
    distillation = Distillation(Teacher(GaussianField(model, Mixture.normal(1.0, 1.3)), model), Shifted(), critic, UID())
    monitor = DistillationMonitor(distillation, data, Streams(0, torch.device("cpu")), size=size)
    monitor.measure(1, {})
    critic.field = GaussianField(model, Mixture.normal(1.5, 1.3))
    moved = 0.5 * noise / (variance + noise)
    left = noise * (variance + mean**2) / (variance + mean**2 + noise)  # of E x^2, once the best multiple of x + sqrt(noise) z is known
    assert monitor.measure(2, {}).values["critic_change"] == pytest.approx(moved / math.sqrt(left), rel=0.05)


def test_monitor_measure_has_all_readings_and_changes_nothing() -> None:
    trainer = distillation_trainer()
    task = trainer.task
    assert isinstance(task, DistillationTask)
    monitor = DistillationMonitor(task.distillation, task.dataset, task.streams, size=32)
    for _ in range(3):
        trainer.step()
    before = [w.clone() for state in trainer.states.values() for w in state.weights]
    trainer.freeze()
    first = monitor.measure(3, {})
    assert not any(w.requires_grad for state in trainer.states.values() for w in state.weights)
    for _ in range(3):
        trainer.step()
    second = monitor.measure(6, {})
    assert first.values.keys() < second.values.keys()
    assert second.values.keys() - first.values.keys() == {"critic_lag", "sample_change", "critic_change"}
    assert sum(second.values[f"grad_share_by_time/t{i}"] for i in range(4)) == pytest.approx(1.0)
    other = distillation_trainer()
    for _ in range(3):
        other.step()
    assert all(torch.equal(w, x) for w, x in zip(before, (w for s in other.states.values() for w in s.weights), strict=True))
    for _ in range(3):
        other.step()
    for name, state in trainer.states.items():
        assert all(torch.equal(w, x) for w, x in zip(state.weights, other.states[name].weights, strict=True))


def test_monitor_forgets_its_measurements_when_the_training_goes_back(tmp_path: Path) -> None:
    """Steps that are made again make the same samples: against those of before, the student seemed to stand still."""
    trainer = distillation_trainer()
    task = trainer.task
    assert isinstance(task, DistillationTask)
    monitoring = Monitoring(DistillationMonitor(task.distillation, task.dataset, task.streams, size=32), every=3)
    trainer.callbacks, trainer.checkpoints = [monitoring], Checkpoints(tmp_path, "train")
    trainer.save()
    readings = []
    for _ in range(2):
        for _ in range(3):
            trainer.step()
        readings.append(monitoring.on_step_end(trainer))
        assert "student-frozen" not in [alarm.name for alarm in monitoring.alarms]
        trainer.restore(tmp_path / "train-00000000.safetensors")
    assert readings[0] == readings[1]


def test_monitor_goes_on_from_a_checkpoint_as_if_nothing_had_been(tmp_path: Path) -> None:
    """Alarms that need two measurements are raised, or not, whether or not a run was interrupted between them."""

    def monitored() -> tuple[Trainer, Monitoring]:
        trainer = distillation_trainer()
        task = trainer.task
        assert isinstance(task, DistillationTask)
        monitoring = Monitoring(DistillationMonitor(task.distillation, task.dataset, task.streams, size=32), every=3)
        trainer.callbacks, trainer.checkpoints = [monitoring], Checkpoints(tmp_path, "train")
        return trainer, monitoring

    trainer, monitoring = monitored()
    for _ in range(3):
        trainer.step()
    monitoring.on_step_end(trainer)
    trainer.save()
    resumed, monitoring_then = monitored()
    resumed.restore()
    readings = []
    for one, other in ((trainer, monitoring), (resumed, monitoring_then)):
        for _ in range(3):
            one.step()
        readings.append((other.on_step_end(one), other.alarms, other.well))
    assert {"monitor/critic_lag", "monitor/sample_change", "monitor/critic_change"} < readings[0][0].keys()
    assert readings[0] == readings[1]


def test_monitoring_leaves_running_means_alone() -> None:
    trainer = distillation_trainer()
    norm = nn.BatchNorm1d(2)
    trainer.states["student"].learner.module.add_module("norm", norm)

    class Measures(Monitor):
        def measure(self, step: int, skipped: dict[str, int]) -> Readings:
            norm(torch.randn(8, 2) + 5)
            return Readings()

    trainer.step()
    Monitoring(Measures(), 1).on_step_end(trainer)
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0.0, 0.0]
    assert norm.num_batches_tracked == 0


def test_monitor_measure_reads_the_loss_as_it_is_at_the_step() -> None:
    """A loss with a ramp is asked at the measured step's progress, for the gradient's shares by time as for the critic's gradient."""
    task = distillation_trainer().task
    assert isinstance(task, DistillationTask)
    asked: list[float] = []

    class Ramped(type(task.distillation.loss)):  # type: ignore[misc]
        def at(self, progress: float) -> DistillationLoss:
            asked.append(progress)
            return super().at(progress)

    task.distillation.loss = Ramped(alpha=2.0, beta=2.0, gamma=0.5)
    DistillationMonitor(task.distillation, task.dataset, task.streams, steps=40, size=32).measure(10, {})
    assert len(asked) == 4  # for the student's loss, for each half of the critic's batches, and for its excess
    assert set(asked) == {0.25}


def test_monitor_measure_names_the_cause_of_what_is_not_finite() -> None:
    task = distillation_trainer().task
    assert isinstance(task, DistillationTask)
    broken = replace(task.dataset, train=replace(task.dataset.train, data=task.dataset.train.data.clone()))
    broken.train.data[::8] = float("nan")
    for dataset, cause in ((broken, "the cause is the data: 7 of 56 samples are not finite"), (task.dataset, "are finite: lower the")):
        (alarm,) = DistillationMonitor(task.distillation, dataset, task.streams, size=16).measure(5, {"critic": 2}).alarms
        assert alarm.name == "not-finite"
        assert "2 of the critic" in alarm.message
        assert cause in alarm.message


class Sides(Extractor):
    """Two classes: which side of zero a number lies on."""

    classes = 2

    def classify(self, events: Tensor) -> Tensor:
        return (events.flatten(1)[:, 0] > 0).long()


class Drawn(nn.Module):
    """A student that draws one of two classes: always the second, the one that is asked for, or the other."""

    def __init__(self, which: str, spread: float = 0.1) -> None:
        super().__init__()
        self.which, self.spread, self.shift = which, spread, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        coin = torch.rand(len(source), generator=generator) < 0.5
        asked = coin if condition.label is None else condition.label == 1
        side = {"one": torch.ones_like(asked), "asked": asked, "other": ~asked}[self.which]
        return (2.0 * side.double() - 1)[:, None] + self.spread * source + self.shift


def of_two_sides(student: Drawn, labels: bool = True) -> DistillationMonitor:
    """A monitor of a student of points on two sides of zero, which overlap as the student's do."""
    y, generator = torch.arange(4000) % 2, torch.Generator().manual_seed(0)
    x = (2.0 * y - 1)[:, None].double() + student.spread * torch.randn(4000, 1, dtype=torch.float64, generator=generator)
    train, held_out = (Batch(x[part], None, y[part] if labels else None) for part in (slice(2000), slice(2000, None)))
    data = Dataset("sides", train, held_out, 0.0, 1.0, 2 if labels else None, (-2.0, 2.0))
    model = matchlib.families["flow"]().model(paired=False)
    field = GaussianField(model, Mixture.normal(0.0, 1.0))
    distillation = Distillation(Teacher(field, model), student, Linear(field), UID())
    return DistillationMonitor(distillation, data, Streams(0, torch.device("cpu")), classifier=Sides)


@pytest.mark.parametrize(("which", "expected"), [("asked", 0.0), ("one", 1.0)])
def test_label_error_is_measured_from_that_of_held_out_data(which: str, expected: float) -> None:
    """Where classes overlap, a sixth of the data are on the other side of zero, too."""
    readings = of_two_sides(Drawn(which, spread=1.0)).measure(100, {})
    assert readings.values["label_error"] == pytest.approx(expected, abs=0.25)  # of 256 samples: .07 is one standard error


def test_label_error_is_not_read_where_classes_cannot_be_told_apart() -> None:
    """Four in ten of the data are on the other side: of 256 samples so many are wrong by chance."""
    assert "label_error" not in of_two_sides(Drawn("asked", spread=4.0)).measure(100, {}).values


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize(("which", "names"), [("one", {"classes", "labels"}), ("asked", set()), ("other", {"labels"})])
def test_monitor_names_a_student_that_draws_other_classes(labels: bool, which: str, names: set[str]) -> None:
    """At the second measurement: at the first it may be a student that has just set out."""
    monitor = of_two_sides(Drawn(which), labels)
    first, second = (monitor.measure(step, {}) for step in (100, 200))
    assert not {alarm.name for alarm in first.alarms} & {"classes", "labels"}
    expected = names if labels else names - {"labels"}
    assert {alarm.name for alarm in second.alarms} & {"classes", "labels"} == expected
    assert second.values["classes_missing"] == (1 if which == "one" else 0)
    assert ("label_error" in second.values) == labels


def test_monitor_draws_dropout_from_streams_of_its_own() -> None:
    """What was drawn before, as in a run that was not interrupted, does not change a reading."""
    trainer = distillation_trainer()
    drop = nn.Dropout(0.5)
    trainer.states["student"].learner.module.add_module("drop", drop)

    class Draws(Monitor):
        def measure(self, step: int, skipped: dict[str, int]) -> Readings:
            return Readings({"drawn": float(drop.train()(torch.ones(64)).sum())})

    found = []
    for before in (0, 3):
        torch.manual_seed(before)
        found.append(Monitoring(Draws(), 1).on_step_end(trainer))
    assert found[0] == found[1]


def test_monitor_of_a_student_that_draws_reads_the_same_in_a_new_process() -> None:
    """What is made once in a process, the points at which critics are compared, takes no random number from what is made every time."""
    trainer = distillation_trainer()
    task = trainer.task
    assert isinstance(task, DistillationTask)
    task.distillation.student.register_forward_pre_hook(lambda module, given: (given[0] + torch.randn(()), *given[1:]))
    monitor = DistillationMonitor(task.distillation, task.dataset, task.streams, size=32)
    again = DistillationMonitor(task.distillation, task.dataset, task.streams, size=32)
    monitor.measure(3, {})
    again.load_state(monitor.state_dict(), monitor.tensors())
    found = []
    for one in (monitor, again):
        torch.manual_seed(0)
        found.append(one.measure(6, {}).values)
    assert found[0] == found[1]


def test_monitoring_leaves_each_learner_a_step_between_two_measurements() -> None:
    """Compared with itself, no student has moved: that would be an alarm."""

    class Reads(Monitor):
        def measure(self, step: int, skipped: dict[str, int]) -> Readings:
            return Readings()

    trainer, found = distillation_trainer(), []
    for every in (0, 1, 3, 100):
        monitoring = Monitoring(Reads(), every)
        monitoring.on_fit_start(trainer)
        found.append(monitoring.every)
    assert (found, trainer.task.cycle) == ([0, 3, 3, 100], 3)


def test_critic_lag_joins_samples_to_sources_of_another_draw() -> None:
    """As training does where the coupling is independent: not to those that they were made from."""
    data = Dataset("pairs", Batch(torch.randn(64, 1), torch.randn(64, 1)), Batch(torch.randn(8, 1)), 0.0, 1.0, None, (-4.0, 4.0))
    model = replace(matchlib.families["flow"]().model(paired=False), coupling=matchlib.couplings["independent-data"]())
    field = Linear(GaussianField(model, Mixture.normal(0.0, 1.0)))
    distillation = Distillation(Teacher(field.field, model), Shifted(), field, UID())
    monitor, joined = DistillationMonitor(distillation, data, Streams(0, torch.device("cpu")), size=32), []
    monitor._critic_excess = lambda samples, other, step: joined.append((samples, other)) or 0.0  # type: ignore[method-assign]
    monitor._critic_lag(1)
    monitor._critic_lag(2)
    for samples, other in joined:
        assert samples.source is not None
        pair = model.coupling.pair(Batch(samples.data, other.source), generator=torch.Generator().manual_seed(0))
        assert not (pair.source == samples.source).any()
