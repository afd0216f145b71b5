"""The CUDA path. Skipped aloud where there is no CUDA device, so what is here has not been run by whoever saw it skipped."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import matchlib
from matchlib.distillation.distillation import Distillation
from matchlib.plugins.tasks import DistillationTask
from matchlib.runs.build import build
from matchlib.runs.plan import plan
from matchlib.runs.settings import RunSettings, resolve
from matchlib.training.random import Streams
from matchlib.training.settings import TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine: the CUDA path is not tested here"),
]


@pytest.mark.parametrize("family", ["flow", "diffusion", "bridge", "interpolant"])
def test_every_family_distils_on_cuda(tmp_path: Path, cli: Callable, small: list[str], family: str) -> None:
    code, _, err = cli("distill", "--teacher", family, "--device", "cuda", "--out", tmp_path / "run", *small)
    assert (code, err) == (0, "")
    assert matchlib.load(tmp_path / "run", device="cuda").sample(4).is_cuda


def test_a_generator_gives_the_same_samples_on_both_devices(finished: Path) -> None:
    source = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    answers = []
    for device in ("cpu", "cuda"):
        pipeline = matchlib.load(finished, device=device)
        condition = pipeline.config.model.condition(source.to(device), torch.arange(4, device=device))
        answers.append(pipeline.module(source.to(device), condition, generator=torch.Generator(device)).cpu())
    assert torch.allclose(*answers, atol=1e-4)


def settings_of(batch: int, network: dict[str, object], **more: Any) -> RunSettings:
    trainer = {"batch_size": batch, "extra_ema_decays": [0.9]}
    return resolve("distill", config={"device": "cuda", "teacher": {"network": network}, "trainer": trainer}, settings=more)


def trainer_on_cuda(settings: RunSettings) -> Trainer:
    """The student's training as settings say, from random weights, after its memory is taken."""
    cuda, components = torch.device("cuda"), build(settings)
    parts = components.distillation
    assert parts is not None
    modules = components.teacher.to(cuda), parts.student.to(cuda), parts.critic.to(cuda)
    learners = Learner(modules[1], extra_ema_decays=(0.9,)), Learner(modules[2], ema=0.0)
    of, data = Distillation(*modules, parts.loss, parts.times), components.data.compact().to(cuda)
    task = DistillationTask(of, *learners, data, Streams(0, cuda), batch_size=settings.trainer.batch_size)
    return Trainer(task, TrainerSettings(steps=10**6))


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"loss.name": "sid"},
        {"student": {"name": "fewstep", "steps": 2}},
        {"teacher.name": "diffusion-vp", "teacher.interpolant": {"name": "vp-discrete"}},
    ],
    ids=["flow", "sid", "fewstep", "vp-discrete"],
)
def test_trainer_step_does_not_wait_for_the_device(more: dict[str, Any]) -> None:
    trainer = trainer_on_cuda(settings_of(32, {"name": "mlp"}, **more))
    for _ in range(4):
        trainer.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            trainer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_plan_peak_is_what_the_allocator_gives_out() -> None:
    settings = settings_of(128, {"name": "unet", "channels": 32})
    expected = plan(settings).peak()
    with torch.backends.cudnn.flags(enabled=False):  # its workspaces are its own choice, and no part of a plan
        warm = trainer_on_cuda(settings)  # takes cuBLAS's workspaces, which stay
        for _ in range(4):
            warm.step()
        del warm
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer = trainer_on_cuda(settings)
        for _ in range(4):
            trainer.step()
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "engine",
    [
        "{precision: tf32}",
        "{precision: bf16, teacher_precision: bf16, channels_last: true}",
        "{compile: reduce-overhead}",
        "{micro_batch_size: 5}",
    ],
)
def test_every_way_of_working_trains(tmp_path: Path, cli: Callable, small: list[str], engine: str) -> None:
    options = ["--device", "cuda", "--out", tmp_path / "run", *small, "--set", f"trainer.engine={engine}"]
    code, _, err = cli("distill", *options)
    assert (code, err) == (0, "")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices: nccl is not tested here")
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_devices_train(tmp_path: Path, small: list[str], engine: str) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "matchlib_cli"]
    options = ["distill", "--device", "cuda", "--out", str(tmp_path / "run"), *small, "--set", f"trainer.engine.parallel={engine}"]
    subprocess.run([*torchrun, *options], check=True, timeout=600)


def test_a_teacher_made_elsewhere_is_examined_and_distilled_on_cuda(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its weights move, and with them everything that it is asked."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 2)

        def forward(self, state: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            return self.layer(state)

    caplog.set_level("INFO", "matchlib")
    teacher = matchlib.Teacher.from_callable(Net(), matchlib.families["flow"]().model(paired=False), normalization=(0.0, 1.0))
    quick = {"device": "cuda", "evaluation.draws": 1, "evaluation.metrics": ["frechet-raw"]}
    matchlib.distill(teacher, data="moons", steps=2, out=tmp_path / "run", settings=quick)
    assert "mistake" in caplog.text
