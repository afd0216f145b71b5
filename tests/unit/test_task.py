"""matchlib.training.task: what a step is."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures.trainings import DATA, distillation_trainer, equal
from torch import Tensor, nn

from matchlib.errors import SettingError
from matchlib.plugins.tasks import DistillationTask
from matchlib.registry import tasks
from matchlib.training.settings import EngineSettings, TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer


@pytest.mark.parametrize("bad", [{"lr": 0.0}, {"ema": 1.0}, {"betas": (0.9, 1.0)}, {"extra_ema_decays": (1.5,)}])
def test_learner_refuses_settings_outside_their_range(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(bad))):
        Learner(nn.Linear(1, 1), **bad)


# -- samples that several critic steps share -------------------------------------------------------------------------------


def sharing(micro_batch_size: int | None = None) -> tuple[Trainer, list[Tensor]]:
    """A training with two critic steps per batch, and what its student generates in it."""
    trainer, generated = distillation_trainer(micro_batch_size=micro_batch_size, critic_steps_per_batch=2), []
    assert isinstance(trainer.task, DistillationTask)
    trainer.task.distillation.student.register_forward_hook(lambda module, given, samples: generated.append(samples.detach().clone()))
    return trainer, generated


def test_distillation_task_shares_samples_among_critic_steps_and_not_with_student_steps() -> None:
    trainer, generated = sharing()
    for _ in range(6):
        trainer.step()
    assert len(generated) == 4  # one for two critic steps, one for the student's, twice
    assert not torch.equal(generated[0], generated[1])


def test_distillation_task_generates_shared_samples_again_after_a_resume() -> None:
    """They come from the same random numbers and weights."""
    whole, _ = sharing()
    for _ in range(5):
        whole.step()
    parted, _ = sharing()
    for _ in range(4):
        parted.step()
    resumed, generated = sharing()  # as in a new process
    for name, state in parted.states.items():
        resumed.states[name].load({key: x.detach().clone() for key, x in state.tensors()})
    resumed.steps_done = 4
    resumed.step()
    assert len(generated) == 1
    for name, state in whole.states.items():
        assert equal(state.weights, resumed.states[name].weights)


def test_distillation_task_resumes_with_shared_samples_and_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the student draws itself belongs to the step at which the samples were generated."""

    def trainer() -> Trainer:
        made = distillation_trainer(critic_steps_per_batch=2)
        task = made.task
        assert isinstance(task, DistillationTask)
        task.distillation.student.register_forward_pre_hook(lambda module, given: (given[0] + torch.randn(()), *given[1:]))
        made._may_draw = True
        return made

    monkeypatch.setattr("matchlib.plugins.tasks.may_draw", lambda module: True)
    whole, parted, resumed = trainer(), trainer(), trainer()
    for _ in range(5):
        whole.step()
    for _ in range(4):
        parted.step()
    for name, state in parted.states.items():
        resumed.states[name].load({key: x.detach().clone() for key, x in state.tensors()})
    resumed.steps_done = 4
    torch.rand(3)  # whatever else a process draws
    resumed.step()
    for name, state in whole.states.items():
        assert equal(state.weights, resumed.states[name].weights)


def test_distillation_task_resumes_with_shared_samples_and_running_means() -> None:
    """Samples that are generated again are counted once."""

    def trainer() -> Trainer:
        made = distillation_trainer(critic_steps_per_batch=2)
        norm = nn.BatchNorm1d(1)
        assert isinstance(made.task, DistillationTask)
        student = made.task.distillation.student
        student.add_module("norm", norm)

        def count(module: nn.Module, given: Any) -> None:
            norm.train()(given[0].flatten(1)[:, :1])

        student.register_forward_pre_hook(count)
        return made

    whole, resumed = trainer(), trainer()
    for _ in range(5):
        whole.step()
    for _ in range(4):
        resumed.step()
    assert isinstance(resumed.task, DistillationTask)
    resumed.task._shared.clear()  # as in a new process
    resumed.step()
    means = [made.task.distillation.student.norm.running_mean for made in (whole, resumed)]  # type: ignore[attr-defined]
    assert torch.equal(*means)


def test_distillation_task_shares_the_same_samples_in_micro_batches() -> None:
    (whole, generated), (parts, in_parts) = sharing(), sharing(5)
    for trainer in (whole, parts):
        for _ in range(2):
            trainer.step()
    assert [len(x) for x in in_parts] == [5, 5, 2]
    assert torch.allclose(torch.cat(in_parts), generated[0], atol=1e-6)


@pytest.mark.parametrize("bad", ["critic_steps", "critic_steps_per_batch"])
def test_distillation_task_refuses_no_critic_step(bad: str) -> None:
    task = distillation_trainer().task
    assert isinstance(task, DistillationTask)
    with pytest.raises(SettingError, match=f"{bad} must be at least 1, got 0"):
        DistillationTask(task.distillation, *task.learners.values(), DATA, task.streams, batch_size=4, **{bad: 0})


# -- methods as plugins ----------------------------------------------------------------------------------------------------


def test_tasks_registry_has_the_built_in_tasks() -> None:
    assert {"distillation", "matching"} <= set(tasks)
    assert tasks["distillation"] is DistillationTask


@pytest.mark.parametrize("name", ["refined", "discriminator-head"])
def test_distillation_task_plugin_trains_all_of_its_learners(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods of the correction study, which add a learner or a term to the losses, in four micro-batches as in one."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    importlib.import_module("benchmarks.studies.correction.alternatives")
    states = []
    for micro_batch_size in (None, 3):
        base = distillation_trainer(micro_batch_size=micro_batch_size).task
        assert isinstance(base, DistillationTask)
        plugin: Any = tasks[name]
        task = plugin(base.distillation, *base.learners.values(), DATA, base.streams, batch_size=12)
        trainer = Trainer(task, TrainerSettings(steps=6, warmup=0, engine=EngineSettings(micro_batch_size=micro_batch_size)))
        before = {key: [w.clone() for w in state.weights] for key, state in trainer.states.items()}
        trainer.fit()
        assert not any(equal(before[key], state.weights) for key, state in trainer.states.items())
        states.append([w for state in trainer.states.values() for w in state.weights])
    assert all(torch.allclose(a, b, atol=2e-3) for a, b in zip(*states, strict=True))


# -- the losses of a step --------------------------------------------------------------------------------------------------


def test_distillation_critic_loss_is_the_same_in_one_forward_pass_and_in_two() -> None:
    of = distillation_trainer().task.distillation  # type: ignore[attr-defined]
    with torch.no_grad():
        for weight in of.critic.parameters():
            weight.mul_(1.5)
    batch, losses = DATA.take(slice(12)), []
    for of.joint_forward in (True, False):
        losses.append(of.critic_loss(prompt=batch, real=batch, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(*losses, rtol=1e-5)


def test_distillation_student_loss_times_a_number_has_that_multiple_of_its_gradient() -> None:
    of = distillation_trainer().task.distillation  # type: ignore[attr-defined]
    weights = list(of.student.parameters())
    with torch.no_grad():
        for weight in of.critic.parameters():
            weight.mul_(1.5)
    batch, found = DATA.take(slice(12)), []
    for share in (1.0, 0.25):
        loss = share * of.student_loss(prompt=batch, real=batch, generator=torch.Generator().manual_seed(0))
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, allow_unused=True) if g is not None]))
    assert found[0].abs().max() > 0
    assert torch.allclose(0.25 * found[0], found[1])
