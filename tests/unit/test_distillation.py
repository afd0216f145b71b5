"""The two losses of a distillation."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib.algebra.model import Moments
from matchlib.algebra.records import Batch
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.loss import BilinearLoss
from matchlib.distillation.predictions import Predictions
from matchlib.fields.preconditioned import NetworkSpec, Preconditioned
from matchlib.fields.teacher import Teacher

LOSSES = [{"name": "realuid", "alpha": 0.9, "beta": 0.95}, {"name": "realuid", "alpha": 4.0, "beta": 4.0, "gamma": 0.5}, {"name": "sid"}]


class DistanceLoss(BilinearLoss):
    """Squares of critic, teacher and state at early times only: it reads where the predictions were made."""

    space = None
    weight_power = 0.0

    @property
    def separable(self) -> bool:
        return False

    def student_loss(self, generated: Predictions) -> Tensor:
        early = (generated.time < 0.5).to(generated.state.dtype)
        known = torch.ones_like(early) if generated.condition.label is None else generated.condition.label + 1.0
        error = (generated.critic - generated.target) * generated.teacher + generated.state
        return early * known * error.square().flatten(1).sum(1)


def distillation(loss: BilinearLoss, *, two_pass: bool | None = None) -> tuple[Distillation, Batch, Batch]:
    model = matchlib.families["flow"]().model(paired=False)
    spec = NetworkSpec((3,), 2)

    def field(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        made = Preconditioned(matchlib.networks["mlp"](spec, width=8, depth=1), model, Moments()).double()
        for weight in made.parameters():
            nn.init.normal_(weight, std=0.3)
        return made

    teacher = Teacher(field(0), model)
    student = matchlib.students["onestep"](teacher, None).double()
    generator = torch.Generator().manual_seed(0)
    prompt, real = (
        Batch(torch.randn(6, 3, dtype=torch.float64, generator=generator), None, torch.randint(2, (6,), generator=generator))
        for _ in range(2)
    )
    return Distillation(teacher, student, field(1), loss, two_pass=two_pass), prompt, real


def loss_and_gradient(of: Distillation, prompt: Batch, real: Batch) -> list[Tensor]:
    loss = of.student_loss(prompt=prompt, real=real, generator=torch.Generator().manual_seed(1))
    return [loss.detach(), *torch.autograd.grad(loss, list(of.student.parameters()), allow_unused=True, materialize_grads=True)]


@pytest.mark.parametrize("spec", LOSSES, ids=["separable", "realuid", "sid"])
def test_student_loss_in_two_passes_is_that_in_one(spec: dict) -> None:
    one, two = (loss_and_gradient(*distillation(matchlib.losses.build(spec), two_pass=two_pass)) for two_pass in (False, True))
    assert any(x.abs().max() > 0 for x in one[1:])
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("two_pass", [False, True])
def test_student_loss_gives_teacher_and_critic_no_gradient(two_pass: bool) -> None:
    of, prompt, real = distillation(matchlib.losses["uid"](), two_pass=two_pass)
    of.student_loss(prompt=prompt, real=real, generator=torch.Generator()).backward()
    assert all(weight.grad is None for module in (of.teacher, of.critic) for weight in module.parameters())
    assert any(weight.grad is not None for weight in of.student.parameters())
    assert all(weight.requires_grad for weight in of.critic.parameters())


def test_student_loss_may_depend_on_time_state_and_condition() -> None:
    """One pass and two agree for such a loss, too; where its weight is zero for every sample, so is it."""
    one, two = (loss_and_gradient(*distillation(DistanceLoss(), two_pass=two_pass)) for two_pass in (False, True))
    assert one[0] > 0
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(one, two, strict=True))
    of, prompt, real = distillation(DistanceLoss())
    late = Distillation(of.teacher, of.student, of.critic, of.loss, replace(of.model.times, t_min=0.5))
    assert late.student_loss(prompt=prompt, real=real, generator=torch.Generator()) == 0


def test_predictions_say_where_they_were_made() -> None:
    of, _, real = distillation(matchlib.losses["uid"]())
    point = of.model.sample_path(real, generator=torch.Generator())
    ((predictions,),) = of.predictions(point)
    assert predictions.state is point.state and predictions.condition is point.condition
    assert torch.equal(predictions.time, point.time)
    assert torch.equal(predictions.target, of.model.target(point))
    assert torch.equal(predictions.teacher, of.teacher(point.state, point.time, point.condition))


def test_losses_take_batches_by_name_alone() -> None:
    """Swapped batches cannot be given: both losses call them prompt and real."""
    of, prompt, real = distillation(matchlib.losses["uid"]())
    for loss in (of.student_loss, of.critic_loss):
        with pytest.raises(TypeError):
            loss(prompt, real, generator=torch.Generator())  # type: ignore[operator]


def test_critic_loss_of_given_samples_is_that_of_their_prompt() -> None:
    of, prompt, real = distillation(matchlib.losses["uid"]())
    generator = torch.Generator().manual_seed(2)
    samples = of.generate(prompt, generator=generator)
    loss = of.critic_loss(prompt=prompt, real=real, generator=generator, samples=samples)
    assert loss == of.critic_loss(prompt=prompt, real=real, generator=torch.Generator().manual_seed(2))
    assert torch.equal(samples.label, prompt.label)


def test_critic_loss_may_evaluate_its_points_together_or_apart() -> None:
    of, prompt, real = distillation(matchlib.losses.build(LOSSES[1]))
    apart = copy.copy(of)
    apart.joint_forward = False
    joint, single = (x.critic_loss(prompt=prompt, real=real, generator=torch.Generator().manual_seed(3)) for x in (of, apart))
    assert torch.allclose(joint, single, rtol=1e-12)


def test_predictions_at_several_points_are_those_at_each() -> None:
    """Points of the critic's loss share their times; others have times of their own."""
    of, _, real = distillation(matchlib.losses["uid"]())
    points = [of.model.sample_path(real, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    assert not torch.equal(points[0].time, points[1].time)
    of.joint_forward = True
    together = of.predictions(*points)
    for point, at_once in zip(points, together, strict=True):
        ((alone,),) = of.predictions(point)
        assert torch.allclose(at_once[0].critic, alone.critic, rtol=1e-10) and torch.allclose(at_once[0].teacher, alone.teacher, rtol=1e-10)
