"""Reference values in closed form: a 1-D flow at t = .4, data N(1, 1.3^2), generated N(-.5, .8^2), velocity space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import matchlib
from matchlib.algebra.records import Batch
from matchlib.algebra.times import TimeDistribution
from matchlib.distillation.distillation import Distillation
from matchlib.distillation.loss import BilinearLoss
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.teacher import Teacher
from matchlib.plugins.losses import UID, RealUID
from matchlib.testing.world import AffineStudent, World, affine_divergence, least

MODEL = matchlib.families["flow"]().model(paired=False)
TIME = 0.4
REAL = Mixture.normal(1.0, 1.3)
UNWEIGHTED = UID(weight_power=0.0)
REFERENCE = [
    (UNWEIGHTED, 0.8852131),
    (RealUID(0.92, 0.94, weight_power=0.0), 0.7597209),
    (RealUID(0.98, 0.96, weight_power=0.0), 0.7748518),
    (RealUID(0.9, 0.9, weight_power=0.0), 0.6695244),
    (RealUID(0.92, 0.94, 0.98, weight_power=0.0), 0.8061089),
]
SLOPES = [(UNWEIGHTED, -0.8129550), (RealUID(0.92, 0.94, weight_power=0.0), -0.7098425)]


def world(mean: float | torch.Tensor = -0.5) -> World:
    return World(MODEL, REAL, Mixture.normal(mean, 0.8), TIME)


@pytest.mark.parametrize(("loss", "value"), REFERENCE)
def test_values_by_quadrature(loss: BilinearLoss, value: float) -> None:
    here = world()
    assert abs(here.value(loss).item() - value) < 1e-6
    assert abs(here.critic_gain(loss, here.best(loss)(*here.point)).item() - value) < 1e-6


def test_the_closed_form_is_the_quadrature() -> None:
    assert abs(affine_divergence(MODEL, REAL, Mixture.normal(-0.5, 0.8), TIME).item() - 0.8852131) < 1e-6


@pytest.mark.parametrize(("loss", "slope"), SLOPES)
def test_slopes_by_quadrature(loss: BilinearLoss, slope: float) -> None:
    mean = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(world(mean).value(loss), mean)
    assert abs(found.item() - slope) < 1e-6


class ShiftedField(nn.Module):
    """A field plus a constant, which is learned."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field, self.shift = field, nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, *inputs: object) -> torch.Tensor:
        return self.field(*inputs) + self.shift


def distillation(loss: BilinearLoss, critic: nn.Module | None = None) -> Distillation:
    """The library's own, with the exact teacher, the best critic, and a student N(-.5, .8^2), at one time."""
    model = replace(MODEL, times=TimeDistribution(TIME - 1e-9, TIME))
    student = AffineStudent(torch.tensor([-0.5]), gain=0.48, scale=0.64)
    return Distillation(Teacher(GaussianField(model, REAL), model), student, critic or world().best(loss), loss)


def rounds(n: int = 40, size: int = 4000) -> list[tuple[Batch, Batch, torch.Generator]]:
    generator = torch.Generator().manual_seed(0)
    return [(REAL.sample(size, generator), REAL.sample(size, generator), generator) for _ in range(n)]


def errors(found: list[float], exact: float) -> float:
    x = torch.tensor(found, dtype=torch.float64)
    assert x.std() / len(x) ** 0.5 < 0.02 * abs(exact), "too noisy to tell anything"
    return abs(x.mean().item() - exact) / (x.std().item() / len(x) ** 0.5)


@pytest.mark.parametrize(("loss", "value"), REFERENCE)
def test_values_through_the_library(loss: BilinearLoss, value: float) -> None:
    of = distillation(loss)
    with torch.no_grad():
        found = [-of.critic_loss(prompt=prompt, real=real, generator=g).item() for prompt, real, g in rounds()]
    assert errors(found, value) < 5


@pytest.mark.parametrize(("loss", "slope"), SLOPES)
def test_slopes_through_the_library(loss: BilinearLoss, slope: float) -> None:
    of = distillation(loss)
    shift = of.student.shift
    found = [torch.autograd.grad(of.student_loss(prompt=prompt, real=real, generator=g), shift)[0].item() for prompt, real, g in rounds()]
    assert errors(found, slope) < 5


def test_critic_loss_cancels_what_generated_and_real_points_share() -> None:
    """Above alpha = beta = 1 a critic's gradient is less noisy than with points drawn independently, and on average the same."""
    loss = RealUID(8.0, 8.0, 0.5, weight_power=0.0)
    critic = ShiftedField(world().best(loss))
    of = distillation(loss, critic)

    def independent(real: Batch, prompt: Batch, g: torch.Generator) -> torch.Tensor:
        generated = of.sample_path(of.generate(prompt, generator=g), real=real, generator=g)
        points = generated, of.model.sample_path(real, generator=g)
        ((at_generated,), (at_real,)) = of.predictions(*points)
        return of.loss.critic_loss(at_generated, at_real).mean()

    def slope(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, critic.shift)[0]

    apart = torch.stack([slope(independent(*batch)) for batch in rounds(200, 200)])
    shared = torch.stack([slope(of.critic_loss(prompt=prompt, real=real, generator=g)) for real, prompt, g in rounds(200, 200)])
    assert shared.var() < 0.75 * apart.var()
    assert (shared.mean() - apart.mean()).abs() < 5 * ((shared.var() + apart.var()) / len(apart)).sqrt()


@pytest.mark.parametrize(("setting", "mean"), [((1, 1, 1), 2.200), ((0.92, 0.94, None), 2.213), ((2, 2, 0.5), 2.100), ((4, 4, 0.5), 2.050)])
def test_where_students_of_a_wrong_teacher_end(setting: tuple, mean: float) -> None:
    """Data N(2, 1), teacher N(2.2, 1), velocity space, t uniform: the student's mean, to three digits as fitted by quadrature."""
    loss, real = RealUID(*setting, weight_power=0.0), Mixture.normal(2.0, 1.0)
    teacher = GaussianField(MODEL, Mixture.normal(2.2, 1.0))
    times = [(i + 0.5) / 10 for i in range(10)]

    def value(knobs: torch.Tensor) -> torch.Tensor:
        made = Mixture.normal(knobs[0], knobs[1].exp())
        return torch.stack([World(MODEL, real, made, t, teacher, side=301).value(loss) for t in times]).mean()

    (found, _), _ = least(value, (2.1, 0.0))
    assert abs(found - mean) < 2e-3
