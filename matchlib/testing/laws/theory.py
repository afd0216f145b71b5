"""Laws of distillation losses in the Gaussian world, each by quadrature of the library's own loss.

Notation: p and q are the distributions of what a field sees for real and for generated data, f_p and f_q their exact fields, f~ the
teacher. With a loss's weights (g, a, b) and (g', a', b'), N = q (b f_q - a f~) + p (b' f_p - a' f~) and m = g q + g' p.

References:
    "Universal Inverse Distillation for Matching Models with Real-Data Supervision (No GANs)", 2025, https://arxiv.org/abs/2509.22459
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from matchlib.algebra.records import Pair
from matchlib.distillation.loss import BilinearLoss
from matchlib.errors import SettingError
from matchlib.fields.exact import BestCritic, GaussianField, Mixture
from matchlib.plugins.losses import UID, RealUID, SiD
from matchlib.registry import losses
from matchlib.testing.law import law
from matchlib.testing.strategies import exactly_known, generators, mixtures, models, moderate_times, realuids, worlds
from matchlib.testing.world import affine_divergence, weights_of

DATA_FREE = ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def _bilinear(name: str) -> bool:
    return isinstance(losses[name](), BilinearLoss)


def _is_data_free(name: str) -> bool:
    return _bilinear(name) and weights_of(losses[name]()) == DATA_FREE  # type: ignore[arg-type]


def _loss(name: str, data: st.DataObject) -> BilinearLoss:
    """The loss without per-sample weight; RealUID over its whole domain."""
    return data.draw(realuids()) if name == "realuid" else replace(losses[name](), weight_power=0.0)  # type: ignore[type-var, return-value]


def _relative(left: Tensor, right: Tensor) -> float:
    return ((left - right).abs() / (1e-3 + right.abs())).max().item()


@law("losses", tolerance=1e-8, examples=25, where=_bilinear)
def the_best_critic_is_stationary(name: str, data: st.DataObject) -> float:
    """What the critic maximises has no slope at f~ + N/m, for any real and generated law and any teacher.

    Advice: The critic's gradient does not vanish at its optimum: check the signs of `generated` and `real`.
    """
    loss = _loss(name, data)
    world = data.draw(worlds(space=loss.space))
    critics = [x.detach().requires_grad_(True) for x in (world.best(loss)(*world.point), world.teacher_prediction)]
    at_best, at_teacher = (torch.autograd.grad(world.critic_gain(loss, critic), critic)[0].abs().sum().item() for critic in critics)
    return at_best / at_teacher


@law("losses", tolerance=1e-7, examples=25, where=_bilinear)
def other_critics_gain_less(name: str, data: st.DataObject) -> float:
    """The maximum is the integral of |N|^2/m, and a critic that is off by delta misses it by the integral of m |delta|^2.
    With densities q of generated and p of real points, m is generated.square q + real.square p. N is q (target f_q - teacher f~) plus
    the same of p and f_p, where f~ is the teacher's field and f_q, f_p are the exact ones.

    Advice: The critic's gain is not quadratic with its maximum at the best critic: check the factor 2 of the linear terms.
    """
    loss = _loss(name, data)
    world = data.draw(worlds(space=loss.space))
    best = world.best(loss)(*world.point)
    size, frequency = data.draw(st.floats(0.1, 2), "size of delta"), data.draw(st.floats(0.1, 3), "frequency of delta")
    delta = size * torch.sin(frequency * world.point[0])
    (g, _, _), (g1, _, _) = weights_of(loss)
    missed = g * world.distance(world.made, best, best + delta) + g1 * world.distance(world.real, best, best + delta)
    value = world.value(loss)
    return max(_relative(world.critic_gain(loss, best), value), _relative(world.critic_gain(loss, best + delta), value - missed))


@law("losses", tolerance=1e-7, examples=25, where=_is_data_free)
def data_free_gains_are_lower_bounds(name: str, data: st.DataObject) -> float:
    """Without real data a critic f gains D - E_q|f - f_q|^2, with D = E_q|f_p - f_q|^2 in closed form.

    Advice: Without real data the critic's gain must be the teacher's excess loss: coefficients (1, 1, 1) for `generated`.
    """
    loss = _loss(name, data)
    if name == "realuid":
        loss = RealUID(weight_power=0.0)
    world = data.draw(worlds(space=loss.space, components=1, wrong_teacher=False))
    critic = torch.cos(data.draw(st.floats(0.1, 3)) * world.point[0])
    bound = affine_divergence(world.model, world.real, world.made, world.time)
    return _relative(world.critic_gain(loss, critic), bound - world.distance(world.made, critic, world.exact(world.made)))


@law("losses", tolerance=0.0, examples=25, where=_bilinear)
def the_value_vanishes_at_the_real_law_only(name: str, data: st.DataObject) -> float:
    """With an exact teacher and an unseen Gaussian source the maximum over critics is 0 if q = p, and positive if q is another law.

    Advice: The loss is zero for a wrong student, or positive for a right one: check the coefficients of teacher and target.
    """
    loss = _loss(name, data)
    world = data.draw(worlds(space=loss.space, gaussian=True, wrong_teacher=False))
    same = replace(world, made=world.real)
    return float(not (world.value(loss) > 1e-7 and same.value(loss).abs() < 1e-12 * (1 + world.value(loss))))


@law("losses", tolerance=1e-7, examples=25, where=_is_data_free)
def student_losses_at_the_best_critic(name: str, data: st.DataObject) -> float:
    """At f = f_q a student's Quadratic(square, w, w) is worth (2w - square) D: D for UID, (1 - a) D for SiD, nothing for FGM.

    The losses of papers are held to these; an own loss to the multiple that its own `student` states.

    Advice: `student` must weigh teacher and target alike, and `student_loss` must be that quadratic.
    """
    loss = _loss(name, data)
    loss = RealUID(weight_power=0.0) if name == "realuid" else loss
    if isinstance(loss, SiD):
        loss = replace(loss, a=data.draw(st.floats(0.3, 2)))
    world = data.draw(worlds(space=loss.space, components=1, wrong_teacher=False))
    of_papers = {"uid": 1.0, "ibmd": 1.0, "realuid": 1.0, "fgm": 0.0, "sid": 1 - getattr(loss, "a", 0.0)}
    worth = of_papers.get(name, 2 * loss.student.teacher - loss.student.square)
    divergence = affine_divergence(world.model, world.real, world.made, world.time)
    found = world.student_loss(loss, world.best(loss)(*world.point))
    return ((found - worth * divergence).abs() / (1e-3 + divergence)).item()


@law("losses", tolerance=1e-7, examples=25, where=lambda name: name == "realuid")
def a_wrong_teacher_is_felt_at_the_real_law(name: str, data: st.DataObject) -> float:
    """At q = p the value is E_p|f~ - f_p|^2 for every alpha, beta and gamma: the real law is not a zero if the teacher is wrong.

    Advice: At the real data the value must be the teacher's mean squared error: check `real`.
    """
    loss = _loss(name, data)
    world = data.draw(worlds(wrong_teacher=True))
    world = replace(world, made=world.real)
    return _relative(world.value(loss), world.distance(world.real, world.teacher_prediction, world.exact(world.real)))


@law("losses", tolerance=0.05, examples=15, where=lambda name: name == "realuid")
def extrapolation_divides_the_error(name: str, data: st.DataObject) -> float:
    """For alpha = beta and a teacher whose law is shifted by a small h, the student's optimum is shifted by h/alpha.

    The slope of the value in the student's mean there is compared with that at the real law.

    Advice: alpha = beta must divide the teacher's error by alpha: check `generated` and `real` together.
    """
    alpha, h = data.draw(st.floats(0.3, 8)), 1e-3
    loss = RealUID(alpha, alpha, data.draw(st.floats(0.2, 0.8)), weight_power=0.0)
    world = data.draw(worlds(components=1, gaussian=True))
    shift = torch.tensor([h / alpha, 0.0], dtype=torch.float64, requires_grad=True)
    teacher = GaussianField(world.model, world.real.shifted(h))
    values = [replace(world, teacher=teacher, made=_moved(world.real, x)).value(loss) for x in shift]
    there, here = torch.autograd.grad(sum(values[1:], start=values[0]), shift)[0].abs().tolist()
    return there / here


@law("losses", tolerance=1e-8, examples=40, where=lambda name: name == "realuid")
def the_optimum_is_a_mixture(name: str, data: st.DataObject) -> float:
    """For alpha = beta the value is 0 where alpha q + (1 - alpha) p is the teacher's law, for every gamma and every model whose coupling
    treats samples one by one. (A minibatch transport plan does not: that of a mixture is no mixture of plans.)

    So for alpha >= 1 the optimum draws real data with probability 1 - 1/alpha, and else what the teacher would; for alpha < 1 it
    overshoots. The teacher is the exact field of a law, however far that is from the real one.

    Advice: alpha q + (1 - alpha) p must be the teacher's distribution at the optimum: check `generated` and `real` together.
    """
    alpha, gamma = data.draw(st.sampled_from([0.3, 0.7, 1.5, 2.0, 8.0])), data.draw(st.floats(0.1, 0.9))
    loss = RealUID(alpha, alpha, gamma, rescaled=data.draw(st.booleans()), weight_power=0.0)
    world = data.draw(worlds())
    real, other = world.real, world.made
    law_of_teacher, optimum = (other, real.blend(other, 1 / alpha)) if alpha > 1 else (real.blend(other, alpha), other)
    world = replace(world, teacher=GaussianField(world.model, law_of_teacher), made=optimum)
    elsewhere = replace(world, made=real)
    return (world.value(loss) / (1e-6 + elsewhere.value(loss))).item()


@law("losses", tolerance=1e-8, examples=30, where=lambda name: name == "realuid")
def the_optimum_is_a_mixture_in_any_dimension(name: str, data: st.DataObject) -> float:
    """The mixture again, for events of several numbers and any covariances: the best critic there is the teacher at every state.

    At the teacher's own law, which is the optimum for alpha = 1 only, it is not.

    Advice: As `the_optimum_is_a_mixture`, for events of several numbers: sum over event dimensions, never average.
    """
    alpha, gamma = data.draw(st.sampled_from([1.5, 2.0, 8.0])), data.draw(st.floats(0.1, 0.9))
    model, size = data.draw(models().filter(exactly_known)), data.draw(st.integers(2, 4))
    real = data.draw(mixtures(model.coupling, dimension=size))
    other = data.draw(mixtures(model.coupling, dimension=size)).shifted(0.5)
    teacher, generator = GaussianField(model, other), data.draw(generators())
    batch = real.sample(16, generator)
    assert batch.source is not None
    t = torch.full((16,), data.draw(moderate_times(model)), dtype=torch.float64)
    point = model.interpolate(Pair(batch.data, batch.source, None), t, generator=generator)
    weights = weights_of(RealUID(alpha, alpha, gamma, weight_power=0.0))

    def pull(made: Mixture) -> Tensor:
        seen = point.state, t, point.condition
        return (BestCritic(model, real, made, teacher, *weights)(*seen) - teacher(*seen)).abs().max()

    return (pull(real.blend(other, 1 / alpha)) / (1e-6 + pull(other))).item()


def _moved(law_: Mixture, by: Tensor) -> Mixture:
    return Mixture(law_.weights, torch.stack([law_.mean[:, :, 0] + by, law_.mean[:, :, 1]], 2), law_.covariance)


@law("losses", tolerance=0.0, examples=40, where=lambda name: name == "realuid")
def settings_outside_the_domain_are_refused(name: str, data: st.DataObject) -> float:
    """Exactly alpha, beta > 0 with gamma in (0, 1), or alpha = beta = gamma = 1, are accepted; elsewhere no maximum exists.

    A beta that is not given is alpha, and a gamma that is not given is one of the allowed values.

    Advice: Refuse, by SettingError, exactly the alpha, beta and gamma for which the critic has no maximum.
    """
    number = st.sampled_from([-1.0, 0.0, 0.3, 1.0, 1.5, 4.0, math.nan])
    alpha, beta, gamma = data.draw(number), data.draw(st.one_of(st.none(), number)), data.draw(st.one_of(st.none(), number))
    both = alpha > 0 and (beta is None or beta > 0)
    allowed = both and (gamma is None or 0 < gamma < 1 or (alpha == gamma == 1 and beta in (None, 1.0)))
    try:
        losses[name](alpha=alpha, beta=beta, gamma=gamma)  # type: ignore[call-arg]
    except SettingError:
        return float(allowed)
    return float(not allowed)


@law("losses", tolerance=1e-3, examples=15, where=lambda name: name == "realuid")
def the_normalised_loss_is_worth_the_integral_of_n(name: str, data: st.DataObject) -> float:
    """With d/|d| in place of d in the linear terms the maximum is 2 times the integral of |N|; any other direction gains less.

    Advice: The linear terms have a wrong factor: 2 <d, beta target - alpha teacher> on generated points.
    """
    loss = _loss(name, data)
    world = data.draw(worlds())
    direction = torch.sign(world.best(loss)(*world.point) - world.teacher_prediction)
    other = torch.sign(torch.sin(data.draw(st.floats(0.5, 3)) * world.point[0] + 0.1))
    small = 1e-6

    def gained(unit: Tensor) -> Tensor:
        return world.critic_gain(loss, world.teacher_prediction + small * unit) / small

    density = weights_of(loss)[0][0] * world.q + weights_of(loss)[1][0] * world.p
    n = density * (world.best(loss)(*world.point) - world.teacher_prediction)[:, 0]
    most = 2 * world.weight * n.abs().sum()
    too_much = float(gained(other) > gained(direction) + 1e-9)
    return max(_relative(gained(direction), most), too_much)


@law("losses", tolerance=1e-7, examples=15, where=lambda name: name == "uid")
def uid_is_realuid_at_one(name: str, data: st.DataObject) -> float:
    """The limit alpha = beta -> 1 of RealUID's value is UID's, at gamma = 1 - 1e-9.

    Advice: RealUID at alpha = beta = gamma near 1 must be UID: check the limit of `real`.
    """
    world = data.draw(worlds(components=1, wrong_teacher=False))
    near = RealUID(1.0, 1.0, 1 - 1e-9, weight_power=0.0)
    return _relative(world.value(near), world.value(UID(weight_power=0.0)))


@law("losses", tolerance=0.02, examples=15, where=lambda name: name == "realuid")
def unequal_weights_hide_a_discriminator(name: str, data: st.DataObject) -> float:
    """Near the real law N/p = beta (f_q - f_p) - (f~ - f_p) + (beta - alpha)(q/p - 1) f_p, to first order.

    Advice: For alpha != beta the linear terms differ from their expansion: check alpha and beta are not swapped.
    """
    loss, h = data.draw(realuids()), 1e-4
    world = data.draw(worlds(components=1, gaussian=True))
    teacher = GaussianField(world.model, world.real.shifted(data.draw(st.floats(-1, 1)) * h))
    world = replace(world, teacher=teacher, made=world.real.shifted(data.draw(st.floats(0.2, 1)) * h))
    (g, _, beta), (g1, _, _) = weights_of(loss)
    density = g * world.q + g1 * world.p
    exact = density * (world.best(loss)(*world.point) - world.teacher_prediction)[:, 0]
    f_p, f_q = world.exact(world.real)[:, 0], world.exact(world.made)[:, 0]
    error = world.teacher_prediction[:, 0] - f_p
    near = world.p * (beta * (f_q - f_p) - error) + (beta - loss.alpha) * (world.q - world.p) * f_p
    return ((exact - near).abs().sum() / near.abs().sum()).item()
