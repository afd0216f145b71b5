"""matchlib.training.precision: what makes networks cheap changes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fixtures.trainings import DATA, MLP, UNET, distillation_trainer
from torch import Tensor, nn

import matchlib
from matchlib.algebra.records import Condition
from matchlib.errors import SettingError
from matchlib.fields.callable import CallableField
from matchlib.fields.preconditioned import NetworkSpec, Preconditioned
from matchlib.plugins.tasks import DistillationTask
from matchlib.runs.artifact import build_field
from matchlib.training.precision import Checkpointed, compute_in, prepare
from matchlib.training.settings import EngineSettings


def answers(network: dict[str, Any], **options: Any) -> tuple[Tensor, list[Tensor]]:
    """What a field answers, and the gradients of its square."""
    torch.manual_seed(0)
    model = matchlib.families["flow"]().model(paired=False)
    field = build_field(network, NetworkSpec((2, 6, 6), 3), model, DATA.moments(model.coupling))
    for weight in field.parameters():
        nn.init.normal_(weight, std=0.2)
    prepare(field, **options)
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(5, 2, 6, 6, generator=generator), torch.rand(5, generator=generator)
    made = field(x, t, Condition(torch.arange(5) % 3))
    made.square().mean().backward()
    return made.detach(), [weight.grad for weight in field.parameters() if weight.grad is not None]


def apart(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]]) -> float:
    """The largest difference of answers and of gradients, each relative to the largest there is."""
    pairs = [(one[0], other[0]), tuple(torch.cat([g.flatten() for g in x[1]]) for x in (one, other))]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("network", [UNET, MLP], ids=["unet", "mlp"])
@pytest.mark.parametrize(
    ("options", "most"), [({"channels_last": True}, 1e-5), ({"checkpointing": True}, 0.0), ({"precision": "tf32"}, 0.0)]
)
def test_prepare_layout_and_checkpointing_change_nothing(network: dict[str, Any], options: dict[str, Any], most: float) -> None:
    assert apart(answers(network), answers(network, **options)) <= most


@pytest.mark.parametrize("network", [UNET, MLP], ids=["unet", "mlp"])
def test_prepare_bf16_is_the_precision_of_the_networks_alone(network: dict[str, Any]) -> None:
    exact, rough = answers(network), answers(network, precision="bf16")
    assert rough[0].dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in rough[1])
    assert 1e-4 < apart(exact, rough) < 0.1


def test_prepare_reaches_networks_that_matchlib_did_not_make() -> None:
    """Computed in bf16 with answers in float32; the weights of a frozen one take half. A function has no weights to cast."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.Sequential(nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.BatchNorm1d(2))  # of the state, in float32
            self.layer, self.after = nn.Linear(3, 8), nn.LayerNorm(8)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.after(self.layer(torch.cat([self.norms(x), t[:, None]], 1)))[:, :2]

    net, x, t = Net(), torch.randn(5, 2), torch.rand(5)
    for fn in (net, net.forward):
        field = CallableField(fn)
        exact = field(x, t, Condition())
        prepare(field, precision="bf16", frozen=fn is net)
        rough = field(x, t, Condition())
        assert rough.dtype == torch.float32
        assert 1e-4 < float(((rough - exact).abs().max() / exact.abs().max()).detach()) < 0.1
        assert net.layer.weight.dtype == (torch.bfloat16 if fn is net else torch.float32)
        compute_in(field, torch.float32) if fn is net else None
    with pytest.raises(SettingError, match="a function"):
        compute_in(field, torch.bfloat16)


@pytest.mark.slow
def test_prepare_compiled_network_answers_as_it_did() -> None:
    assert apart(answers(MLP), answers(MLP, compile="default")) < 1e-4


@pytest.mark.parametrize(
    ("bad", "message"),
    [({"precision": "fp8"}, r"precision.*'fp32', 'tf32' or 'bf16'.*'fp8'"), ({"compile": "fast"}, r"compile.*'default'.*'fast'")],
)
def test_engine_settings_refuse_a_precision_or_mode_that_does_not_exist(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        EngineSettings(**bad)


def test_prepare_sets_tf32_for_whoever_comes_after() -> None:
    """It is a switch of the process, so a run in fp32 turns it off."""
    for precision in ("tf32", "fp32"):
        prepare(nn.Linear(2, 2), precision=precision)
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    with pytest.raises(SettingError, match="switch of the whole process"):
        EngineSettings(precision="fp32", teacher_precision="tf32")


def test_student_loss_of_checkpointed_networks_is_differentiated_in_any_loop() -> None:
    """Blocks that are computed again must find the critic frozen, as it was."""
    gradients = []
    for again in (False, True):
        task = distillation_trainer(network=UNET, loss="realuid").task
        assert isinstance(task, DistillationTask)
        of = task.distillation
        for field in (of.teacher, of.student, of.critic):
            prepare(field, checkpointing=again)
        batch = task.dataset.draw(4, torch.Generator().manual_seed(0))
        of.student_loss(prompt=batch, real=batch, generator=torch.Generator().manual_seed(1)).backward()
        gradients.append([weight.grad for weight in of.student.parameters()])
        assert all(weight.grad is None for weight in of.critic.parameters())
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_prepare_checkpointing_reaches_every_network_that_has_it() -> None:
    """A network says by its attribute ``checkpointing`` that it can; others stay as they are."""
    model = matchlib.families["flow"]().model(paired=False)
    for network, can in (
        (build_field(MLP, NetworkSpec((4,)), model, DATA.moments(model.coupling)).network, True),
        (nn.Linear(4, 4), False),
    ):
        prepare(Preconditioned(network, model, DATA.moments(model.coupling)), checkpointing=True)
        assert isinstance(network, Checkpointed) == can
        assert getattr(network, "checkpointing", False) == can


@pytest.mark.parametrize("network", [UNET, MLP], ids=["unet", "mlp"])
def test_prepare_frozen_teacher_in_bf16_takes_half_of_the_memory_and_predicts_nearly_the_same(network: dict[str, Any]) -> None:
    trainer = distillation_trainer(network=network)
    task = trainer.task
    assert isinstance(task, DistillationTask)
    of, batch = task.distillation, DATA.take(slice(12))
    teacher = of.teacher
    before = sum(x.nbytes for x in teacher.state_dict().values())
    with torch.no_grad():
        for weight in of.critic.parameters():
            weight.mul_(1.5)
    losses = [of.student_loss(prompt=batch, real=batch, generator=torch.Generator().manual_seed(0))]
    prepare(teacher, precision="bf16", frozen=True)
    assert sum(x.nbytes for x in teacher.state_dict().values()) == before / 2
    losses.append(of.student_loss(prompt=batch, real=batch, generator=torch.Generator().manual_seed(0)))
    assert losses[1].dtype == torch.float32
    assert torch.isclose(*losses, rtol=0.1)
    assert not torch.equal(*losses)
    trainer.step()
    assert all(w.dtype == torch.float32 for state in trainer.states.values() for w in state.weights)


def test_frequencies_of_a_time_are_not_rounded_with_the_weights() -> None:
    """Angles of up to 32 pi would be off by a fifth of a radian in bf16."""
    model = matchlib.families["flow"]().model(paired=False)
    field = build_field(MLP, NetworkSpec(DATA.shape, 3), model, DATA.moments(model.coupling))
    t, seen = torch.linspace(0.5, 1.0, 7), []
    field.network.embed.mix.register_forward_hook(lambda module, inputs, answer: seen.append(inputs[0].float()))
    for precision in ("fp32", "bf16"):
        prepare(field, precision=precision, frozen=True)
        field(torch.zeros(7, *DATA.shape), t, Condition(torch.zeros(7, dtype=torch.long)))
    assert torch.allclose(seen[0], seen[1], atol=5e-3)
