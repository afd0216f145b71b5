"""The plan of memory against tensors that are really there, and what it refuses."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import IncompatibleError
from matchlib.plugins.tasks import DistillationTask
from matchlib.runs.build import build
from matchlib.runs.plan import Plan, plan
from matchlib.runs.settings import RunSettings, resolve
from matchlib.training.memory import Live
from matchlib.training.random import Streams
from matchlib.training.settings import EngineSettings, TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer
from matchlib_cli.app import main

pytestmark = pytest.mark.runs


@pytest.fixture(scope="module")
def images() -> Dataset:
    return Dataset.from_arrays("images", np.random.default_rng(0).normal(size=(64, 1, 12, 12)).astype(np.float32))


def settings_of(batch: int, **engine: object) -> RunSettings:
    network = {"name": "unet", "channels": 16}
    tree = {"teacher": {"network": network}, "trainer": {"batch_size": batch, "engine": engine, "extra_ema_decays": [0.99, 0.9999]}}
    return resolve("distill", config={**tree, "device": "cpu"})


def measured(settings: RunSettings, data: Dataset) -> int:
    """The most that real tensors take, networks and data included."""
    with Live() as live:
        components = build(settings, data=Dataset.from_arrays("again", data.denormalize(data.train.data).numpy()))
        parts, e = components.distillation, settings.trainer.engine
        assert parts is not None
        modules = components.teacher, parts.student, parts.critic
        of = Distillation(*modules, parts.loss, parts.times, two_pass=e.split, joint_forward=e.joint_forward)
        learners = Learner(parts.student, extra_ema_decays=(0.99, 0.9999)), Learner(parts.critic, ema=0.0)
        streams, before = Streams(0, torch.device("cpu")), live.now
        task = DistillationTask(of, *learners, components.data, streams, batch_size=settings.trainer.batch_size)
        trainer = Trainer(task, TrainerSettings(steps=4, engine=EngineSettings(micro_batch_size=e.micro_batch_size)))
        live.peak = live.now
        for _ in range(4):
            trainer.step()
    return live.peak - before


@pytest.mark.parametrize(
    ("batch", "engine"),
    [
        pytest.param(8, {}, marks=pytest.mark.slow),
        pytest.param(24, {}, marks=pytest.mark.slow),
        (24, {"micro_batch_size": 8}),
        pytest.param(8, {"split": True}, marks=pytest.mark.slow),
        pytest.param(8, {"joint_forward": False}, marks=pytest.mark.slow),
    ],
)
def test_plan_peak_is_what_the_steps_take(images: Dataset, batch: int, engine: dict[str, object]) -> None:
    settings = settings_of(batch, **engine)
    expected = plan(settings, images)
    modules = sum(expected.parts[part] for part in ("data", "teacher", "student", "critic"))
    assert expected.peak() - modules == pytest.approx(measured(settings, images), rel=0.05)


def test_plan_computes_and_changes_nothing(images: Dataset) -> None:
    torch.manual_seed(12345)  # another seed than that of the settings
    before, state = copy.deepcopy(images.train.data), torch.get_rng_state()
    first, second = (plan(settings_of(8), images) for _ in range(2))
    assert first.peak() == second.peak()
    assert torch.equal(images.train.data, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_plan_largest_fits_and_a_larger_batch_does_not() -> None:
    made = Plan({"data": 100}, 8, lambda size: 50 + 7 * size)
    assert made.largest(149) == 0
    assert made.largest(157) == 1
    most = made.largest(100_000)
    assert made.peak(most) <= 100_000 < made.peak(int(1.05 * most))


@pytest.mark.slow
def test_plan_command_prints_parts_and_says_whether_it_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("trainer:\n  batch_size: 64\n")
    for memory, fits in (
        ("24GiB", "64 fits"),
        ("8MiB", "64 does not fit: set trainer.engine.micro_batch_size or a smaller trainer.batch_size"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["plan", str(tmp_path / "run.yaml"), "--memory", memory])
        assert not ended.value.code
        said = capsys.readouterr().out
        assert "student's optimiser" in said
        assert fits in " ".join(said.split())
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize("memory", ["much", "-3GiB", "24XB"])
def test_plan_command_refuses_memory_that_is_none(tmp_path: Path, memory: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.yaml").write_text("{}\n")
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(tmp_path / "run.yaml"), "--memory", memory])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("change", [{"teacher.name": "gaussian", "data.labels": True}, {"teacher.coupling": {"name": "minibatch-ot"}}])
def test_a_plan_of_what_reads_numbers_is_refused_in_a_line(change: dict) -> None:
    settings = {"data.name": "moons", "data.labels": False, "teacher.network": {"name": "mlp", "width": 8, "depth": 1}, **change}
    with pytest.raises(IncompatibleError, match="they read numbers, and a plan has shapes alone"):
        plan(resolve("distill", settings=settings)).peak()
