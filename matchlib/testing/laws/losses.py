"""Laws of distillation losses."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from matchlib.algebra.model import square_norm
from matchlib.distillation.loss import DistillationLoss
from matchlib.distillation.predictions import Predictions
from matchlib.plugins.losses import RealUID
from matchlib.registry import losses
from matchlib.testing.law import law
from matchlib.testing.strategies import generators, realuids, shapes, sizes


def _contrast(data: st.DataObject) -> Predictions:
    size, shape = data.draw(sizes), data.draw(shapes)
    vectors = torch.randn(3, size, *shape, dtype=torch.float64, generator=data.draw(generators()))
    return _at_noise(*vectors, weight=data.draw(st.floats(0.1, 10), "time weight"))


def _two(data: st.DataObject) -> tuple[Predictions, Predictions]:
    """Two unrelated contrasts with one time weight."""
    vectors = torch.randn(6, 3, 2, dtype=torch.float64, generator=data.draw(generators()))
    weight = data.draw(st.floats(0.1, 10), "time weight")
    return _at_noise(*vectors[:3], weight=weight), _at_noise(*vectors[3:], weight=weight)


def _at_noise(critic: Tensor, teacher: Tensor, target: Tensor, *, weight: float) -> Predictions:
    """Predictions at a point that no bilinear loss reads."""
    return Predictions(critic, teacher, target, weight, state=torch.zeros_like(target), time=target.new_full(target.shape[:1], 0.5))


def _plain(name: str) -> DistillationLoss:
    """The loss with its per-sample weight off: laws of expectations hold without it."""
    loss = losses[name]()
    return replace(loss, weight_power=0.0) if hasattr(loss, "weight_power") else loss  # type: ignore[type-var]


@law("losses", tolerance=1e-10)
def per_sample_identity(name: str, data: st.DataObject) -> float:
    """|f* - c|^2 - |f - c|^2 = -|d|^2 + 2 <d, c - f*>, sample by sample; every loss is made of such squares.

    Advice: Return one number for each sample, shape (b,), and build the loss from `Predictions.quadratic`.
    """
    x = _contrast(data)
    squares = float(x.weight) * (square_norm(x.teacher - x.target) - square_norm(x.critic - x.target))
    shape_is_kept = losses[name]().student_loss(x).shape == (len(x.critic),)
    return (x.quadratic(1, 1, 1) - squares).abs().max().item() + float(not shape_is_kept)


@law("losses", tolerance=1e-12)
def value_is_zero_where_critic_is_teacher(name: str, data: st.DataObject) -> float:
    """At f = f* both losses vanish, for any target.

    Advice: Where critic and teacher agree both losses must be 0: every term needs a factor critic - teacher.
    """
    x, y = _two(data)
    x, y = replace(x, critic=x.teacher), replace(y, critic=y.teacher)
    loss = losses[name]()
    return max(loss.student_loss(x).abs().max().item(), loss.critic_loss(x, y).abs().max().item())


def _critic_gradient(loss: DistillationLoss, x: Predictions, y: Predictions | None) -> torch.Tensor:
    """Gradient of the critic's loss where generated and real points coincide: one critic value serves both."""
    critic = x.teacher.clone().requires_grad_(True)
    at_real = None if y is None else replace(y, critic=critic)
    return torch.autograd.grad(loss.critic_loss(replace(x, critic=critic), at_real).sum(), critic)[0]


@law("losses", tolerance=1e-10)
def teacher_is_stationary_on_its_own_law(name: str, data: st.DataObject) -> float:
    """At q = p and an exact teacher, f = f* is stationary; E[c] = f* is made exact by targets in antithetic pairs.

    Advice: The critic's linear terms do not cancel on real data: the coefficients of teacher and target must add up to equal sums.
    """
    loss = data.draw(realuids()) if name == "realuid" else _plain(name)
    x = _contrast(data)
    mirrored = replace(x, target=2 * x.teacher - x.target)
    gradient = _critic_gradient(loss, x, x) + _critic_gradient(loss, mirrored, mirrored)
    return gradient.abs().max().item() / (1 + float(x.weight) * x.target.abs().max().item() * 10)


@law("losses", tolerance=0.0)
def critic_has_a_maximum(name: str, data: st.DataObject) -> float:
    """The critic's loss grows without bound in every direction: its squares have positive total weight.

    Advice: The coefficients of |critic - teacher|^2, generated plus real, must be positive, or the critic runs away.
    """
    loss = _plain(name)
    x, y = _two(data)
    far = [replace(z, critic=z.teacher + 1e6 * (z.critic - z.teacher)) for z in (x, y)]
    return float(not (loss.critic_loss(*far) > 0).all())


@law("losses", tolerance=0.0)
def real_points_are_used_as_declared(name: str, data: st.DataObject) -> float:
    """``uses_real`` is true exactly if real points change the critic's loss.

    Advice: `uses_real` must be True exactly if `critic_loss` reads `real`.
    """
    loss = losses[name]()
    x, y = _two(data)
    changes = bool((loss.critic_loss(x, y) != loss.critic_loss(x, None)).any())
    return float(changes != loss.uses_real)


@law("losses", tolerance=1e-10)
def weight_power_is_per_sample(name: str, data: st.DataObject) -> float:
    """The per-sample weight multiplies the student's loss only: positive, constant in the gradient, absent from the critic's.

    Advice: Multiply the student's loss, and only it, by `Predictions.sample_weight(self.weight_power)`, which has no gradient.
    """
    if not hasattr(losses[name](), "weight_power"):
        return 0.0
    off, on = (replace(losses[name](), weight_power=power) for power in (0.0, 1.0))  # type: ignore[type-var]
    x, y = _contrast(data), None
    ratio = on.student_loss(x) / off.student_loss(x)
    expected = 1 / ((x.target - x.teacher).abs().flatten(1).mean(1) * x.weight**0.5)
    same = (on.critic_loss(x, y) - off.critic_loss(x, y)).abs().max().item()
    target = x.target.clone().requires_grad_(True)
    slopes = [torch.autograd.grad(loss.student_loss(replace(x, target=target)).sum(), target)[0].flatten(1) for loss in (on, off)]
    constant = ((slopes[0] - expected[:, None] * slopes[1]).abs() / (1 + slopes[0].abs())).max().item()
    return same + constant + ((ratio - expected).abs() / expected).max().item()


def _regression(loss: RealUID, x: Predictions, y: Predictions) -> torch.Tensor:
    """The critic's loss as a weighted regression, targets (beta c + (gamma - alpha) f*)/gamma and its real counterpart."""
    alpha, beta, gamma = loss.alpha, loss.beta, loss.gamma
    assert beta is not None
    assert gamma is not None
    left = (beta * x.target + (gamma - alpha) * x.teacher) / gamma
    right = ((1 - beta) * y.target + (alpha - gamma) * y.teacher) / (1 - gamma)
    return gamma * x.weight * square_norm(x.critic - left) + (1 - gamma) * y.weight * square_norm(y.critic - right)


@law("losses", tolerance=1e-9, examples=60, where=lambda name: name == "realuid")
def realuid_is_a_regression(name: str, data: st.DataObject) -> float:
    """Between two critics, RealUID's critic loss differs as its regression form does (gamma = alpha included).

    Advice: The critic's loss is not the regression that its coefficients stand for: check `generated` and `real`.
    """
    loss = data.draw(realuids())
    x, y = _two(data)
    other = [replace(z, critic=torch.randn(3, 2, dtype=torch.float64, generator=data.draw(generators()))) for z in (x, y)]
    bilinear = loss.critic_loss(x, y) - loss.critic_loss(*other)
    regression = _regression(loss, x, y) - _regression(loss, *other)
    return ((bilinear - regression).abs() / (1 + regression.abs())).max().item()


@law("losses", tolerance=1e-9, examples=60, where=lambda name: name in ("realuid", "uid", "ibmd", "fgm", "sid"))
def reductions(name: str, data: st.DataObject) -> float:
    """RealUID(1, 1) = UID; SiD(1/2) = UID/2; FGM = UID - |d|^2 (its L2), so that L1 + L2 = UID; IBMD = UID in its space.

    Advice: The loss is not what its paper says: check the coefficients of `student`, `generated` and `real`.
    """
    x = _contrast(data)
    uid = x.quadratic(1, 1, 1)
    d2 = x.weight * square_norm(x.critic - x.teacher)
    expected = {"realuid": uid, "uid": uid, "ibmd": uid, "fgm": uid - d2, "sid": 0.5 * uid}
    loss = _plain(name)
    loss = replace(loss, a=0.5) if name == "sid" else loss  # type: ignore[type-var]
    critic = -loss.critic_loss(x, None) - uid
    return max((loss.student_loss(x) - expected[name]).abs().max().item(), critic.abs().max().item())


@law("losses", tolerance=0.0, where=lambda name: name == "realuid")
def gamma_matters(name: str, data: st.DataObject) -> float:
    """Changing gamma changes both losses.

    Advice: gamma must enter `generated` and `real`: as the coefficient of |d|^2, and as 1 - gamma.
    """
    one, two = (RealUID(0.9, 0.9, gamma, weight_power=0.0) for gamma in (0.3, 0.6))
    x, y = _two(data)
    student = (one.student_loss(x) != two.student_loss(x)).all()
    critic = (one.critic_loss(x, y) != two.critic_loss(x, y)).all()
    return float(not (student and critic))


@law("losses", tolerance=1e-4, where=lambda name: name == "realuid")
def limits_are_continuous(name: str, data: st.DataObject) -> float:
    """Alpha -> 1 gives UID; alpha = beta -> infinity, divided by alpha^2 with d = alpha e, gives the limit.

    Advice: A limit (alpha to 1, or to infinity) is not the case that stands for it: check the branches for 1 and inf.
    """
    x, y = _two(data)
    near_one = RealUID(1 - 1e-9, 1 - 1e-9, weight_power=0.0)
    gap = (near_one.critic_loss(x, y) - RealUID(weight_power=0.0).critic_loss(x, y)).abs().max()
    alpha = 1e7
    far = RealUID(alpha, alpha, 0.5, weight_power=0.0)
    limit = RealUID(math.inf, math.inf, 0.5, weight_power=0.0)
    stretched = [replace(z, critic=z.teacher + alpha * (z.critic - z.teacher)) for z in (x, y)]
    gap_far = (far.critic_loss(*stretched) / alpha**2 - limit.critic_loss(x, y)).abs().max()
    return max(gap.item(), gap_far.item())


@law("losses", tolerance=1e-9, examples=40, where=lambda name: name == "realuid")
def rescaling_only_changes_the_unit(name: str, data: st.DataObject) -> float:
    """For a critic f* + e the rescaled losses are those of f* + alpha e over alpha^2, for every alpha, beta and gamma.

    Advice: `rescaled` must divide alpha and beta, on generated and real points, by alpha: nothing else.
    """
    loss = data.draw(realuids())
    x, y = _two(data)
    far = [replace(z, critic=z.teacher + loss.alpha * (z.critic - z.teacher)) for z in (x, y)]
    rescaled = replace(loss, rescaled=True)
    critic = rescaled.critic_loss(x, y) - loss.critic_loss(*far) / loss.alpha**2
    student = rescaled.student_loss(x) - loss.student_loss(far[0]) / loss.alpha**2
    return max(gap.abs().max().item() for gap in (critic, student)) / (1 + rescaled.critic_loss(x, y).abs().max().item())


@law("losses", tolerance=1e-9, examples=40, where=lambda name: name == "realuid")
def a_ramp_runs_from_the_teacher_to_the_loss(name: str, data: st.DataObject) -> float:
    """1 / alpha goes from 1 to its value, halfway at half of the ramp, and stays there; beta / alpha and gamma never move.

    Advice: `at(progress)` must move 1/alpha linearly from 1 to its value, beta/alpha and gamma fixed.
    """
    end = data.draw(st.sampled_from([1.5, 4.0, math.inf]))
    loss = RealUID(end, end, 0.5, rescaled=True, ramp=data.draw(st.floats(0.1, 1.0)), weight_power=0.0)
    x, y = _two(data)
    gaps = []
    for share in (0.0, 0.5, 1.0):
        inverse = 1 + share * (1 / end - 1)
        same = RealUID(1 / inverse, 1 / inverse, 0.5, rescaled=True, weight_power=0.0) if inverse else replace(loss, ramp=0.0)
        now = loss.at(share * loss.ramp)
        gaps += [now.critic_loss(x, y) - same.critic_loss(x, y), now.student_loss(x) - same.student_loss(x)]
    gaps += [loss.at(1.0).critic_loss(x, y) - loss.critic_loss(x, y)]
    return max(gap.abs().max().item() for gap in gaps)
