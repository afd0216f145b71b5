"""Laws of objectives: rows, conversions, minimisers."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import assume
from hypothesis import strategies as st

from matchlib.algebra.convert import View, conversion
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.pinned import PriorInterpolant, pin
from matchlib.algebra.times import TimeDistribution
from matchlib.fields.exact import GaussianField, Mixture, seen_by
from matchlib.fields.preconditioned import Preconditioned
from matchlib.plugins.losses import RealUID
from matchlib.registry import objectives
from matchlib.testing.law import law
from matchlib.testing.strategies import exactly_known, generators, is_row, mixtures, models, readable, seen, times_in, worlds


def _states(data: st.DataObject, model: MatchingModel) -> tuple:
    """An exact field, and a point to ask it at."""
    exact = GaussianField(model, data.draw(mixtures(model.coupling, dimension=2)))
    generator = data.draw(generators())
    t = data.draw(times_in(model))
    state, source = torch.randn(2, len(t), 2, dtype=torch.float64, generator=generator)
    return exact, (state, t, model.condition(source, None))


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    return ((left - right).norm() / (1 + right.norm())).item()


@law("objectives", tolerance=1e-7, examples=30, where=is_row)
def conversions_are_exact(name: str, data: st.DataObject) -> float:
    """An exact field read as another prediction is the exact field of that prediction (theory: one linear solve modulo relations).

    Advice: `row` is not what a field of this objective predicts, or divides by a coefficient that vanishes: check `row`.
    """
    model = data.draw(models(objective=name))
    assume(exactly_known(model))
    wanted = data.draw(st.sampled_from([other for other in objectives if readable(model, other) and not seen(model, other)]))
    exact, point = _states(data, model)
    return _gap(
        View(exact, model, objectives[wanted]())(*point),
        GaussianField(replace(model, objective=objectives[wanted]()), exact.distribution)(*point),
    )


@law("objectives", tolerance=1e-9, where=is_row)
def reading_as_itself_changes_nothing(name: str, data: st.DataObject) -> float:
    """The conversion of a prediction to itself is the identity.

    Advice: `row` gives different numbers when it is asked twice: it must depend on model and coefficients only.
    """
    model = data.draw(models(objective=name))
    generator, t = data.draw(generators()), data.draw(times_in(model))
    field, state, source = torch.randn(3, len(t), 2, dtype=torch.float64, generator=generator)
    read = conversion(model, model.objective)((field,), state, model.interpolant.coefficients(t), source)
    return _gap(read, field)


@law("objectives", tolerance=1e-5, examples=30, where=is_row)
def conversions_invert_and_compose(name: str, data: st.DataObject) -> float:
    """Where p determines q and q determines r, reading p as q as r is reading p as r; with r = p, it is p.

    For predictions that the field does not see anyway: of those any value is a possible one.

    Advice: `row` is singular, or nearly, somewhere inside (0, 1): choose a scale that neither vanishes nor explodes.
    """
    model = data.draw(models(objective=name))
    unseen = [other for other in objectives if readable(model, other) and not seen(model, other)]
    assume(name in unseen)
    between = replace(model, objective=objectives[data.draw(st.sampled_from(unseen))]())
    last = data.draw(st.sampled_from([other for other in unseen if readable(between, other)]))
    generator, t = data.draw(generators()), data.draw(times_in(model))
    field, state, source = torch.randn(3, len(t), 2, dtype=torch.float64, generator=generator)
    at = model.interpolant.coefficients(t)
    straight = conversion(model, objectives[last]())((field,), state, at, source)
    half = conversion(model, between.objective)((field,), state, at, source)
    round_about = conversion(between, objectives[last]())((half,), state, at, source)
    return _gap(round_about, straight)


@law("objectives", tolerance=1e-9, examples=40, where=is_row)
def conversions_hold_on_latents(name: str, data: st.DataObject) -> float:
    """As rows, wanted = sum of coefficients times (predicted, known), up to the relations of the model.

    Advice: `row` mixes the latents otherwise than its definition: check the order (data, source, noise) and the signs.
    """
    model = data.draw(models(objective=name))
    wanted = data.draw(st.sampled_from([other for other in objectives if readable(model, other)]))
    t = data.draw(times_in(model))
    at = model.interpolant.coefficients(t)
    coefficients = conversion(model, objectives[wanted]()).coefficients(at)
    rows = [row.stack(t) for row in (model.row(at), *model.known(at))]
    made = sum(torch.as_tensor(k, dtype=torch.float64).expand(len(t))[:, None] * row for k, row in zip(coefficients, rows, strict=True))
    wanted_row = objectives[wanted]().row(model, at).stack(t)
    left = (made - wanted_row)[:, :, None]
    relations = [row.stack(t) for row in model.relations(at)]
    if relations:
        basis = torch.stack(relations, -1)
        left = left - basis @ torch.linalg.pinv(basis) @ left
    return (left.norm() / (1 + wanted_row.norm())).item()


@law("objectives", tolerance=5.0, examples=10, where=is_row)
def the_exact_field_minimises_the_loss(name: str, data: st.DataObject) -> float:
    """The error of the exact field is uncorrelated with 1 and with the state, within 5 standard errors: it is the regression of the row.

    Advice: The loss does not regress `row`: `row` must be linear in the latents, with coefficients of the time alone.
    """
    model = data.draw(models(objective=name))
    assume(exactly_known(model))
    given = data.draw(mixtures(model.coupling))
    generator = data.draw(generators())
    batch = given.sample(4000, generator)
    t = data.draw(times_in(model, 1)).expand(4000)
    point = model.interpolate(model.coupling.pair(batch, generator=generator), t, generator=generator)
    error = GaussianField(model, given)(point.state, t, point.condition) - model.target(point)
    moments = [error, error * (point.state - point.state.mean()) / point.state.std()]
    return max((m.mean() / (m.std() / len(m) ** 0.5 + 1e-12)).abs().item() for m in moments)


@law("objectives", tolerance=0.0, examples=40, where=is_row)
def weights_are_positive(name: str, data: st.DataObject) -> float:
    """lambda(t) > 0 and finite.

    Advice: `weight` must be finite and positive for every t inside the interval: clamp it, or leave it at 1.
    """
    model = data.draw(models(objective=name))
    weight = torch.as_tensor(model.weight(model.interpolant.coefficients(data.draw(times_in(model)))))
    return float(not (torch.isfinite(weight).all() and (weight > 0).all()))


@law("objectives", tolerance=5.0, examples=10, where=is_row)
def preconditioning_has_unit_variance(name: str, data: st.DataObject) -> float:
    """Karras et al. 2022: a preconditioned network's input and target have variance one, within 5 standard errors.

    Advice: `row` grows or vanishes faster than float64 can follow: scale it so that its size is of order one.
    """
    model = data.draw(models(objective=name))
    assume(exactly_known(model))
    given = data.draw(mixtures(model.coupling, components=1))
    given = replace(given, mean=torch.zeros_like(given.mean))
    n, generator = 4000, data.draw(generators())
    batch = given.sample(n, generator)
    field = Preconditioned(torch.nn.Identity(), model, given.moments())
    t = data.draw(times_in(model, 1)).expand(n)
    point = model.interpolate(model.coupling.pair(batch, generator=generator), t, generator=generator)
    first, ((second, third),) = field.scales(t)
    inner, skip, out = (torch.as_tensor(scale)[:, None] for scale in (first, second, third))
    assume(out.min() > 1e-6)
    seen, target = inner * point.state, (model.target(point) - skip * point.state) / out
    return max((x.square().mean() - 1).abs().item() * (n / 2) ** 0.5 for x in (seen, target))


@law("objectives", tolerance=1e-6, examples=15, where=lambda name: name in ("score", "epsilon"))
def scores_are_gradients(name: str, data: st.DataObject) -> float:
    """The score is the gradient of the logarithm of the state's density, and epsilon is minus the score times sqrt(b^2 + c^2).

    With a source that the field sees, of the density given the source (Vincent 2011).

    Advice: `row` of the score must be -(b source + c noise)/(b^2 + c^2) for an unseen Gaussian source, else -noise/c; epsilon is scaled.
    """
    model = data.draw(models(objective=name).filter(exactly_known))
    given = data.draw(mixtures(model.coupling, dimension=2))
    t, generator = data.draw(times_in(model)), data.draw(generators())
    state, source = torch.randn(2, len(t), 2, dtype=torch.float64, generator=generator)
    condition = model.condition(source, None)
    state.requires_grad_(True)
    (slope,) = torch.autograd.grad(given.log_density(*seen_by(model, state, t, condition.source)).sum(), state)
    at = model.interpolant.coefficients(t)
    std = torch.as_tensor(at.variance if model.gaussian else at.c * at.c).sqrt()
    scale = torch.ones_like(std) if name == "score" else -std
    return _gap(GaussianField(model, given)(state, t, condition), scale[:, None] * slope)


@law("objectives", tolerance=1e-7, examples=20, where=is_row)
def the_space_only_weighs_the_time(name: str, data: st.DataObject) -> float:
    """For alpha = beta another space multiplies the loss by A(t)^2, A the conversion's coefficient, whatever the teacher.

    Advice: `row` or `weight` depends on more than the time, so a loss in this space has another optimum: use coefficients of t only.
    """
    world = data.draw(worlds(space=name))
    model = world.model
    others = [other for other in objectives if readable(model, other) and not seen(model, other)]
    wanted = replace(model, objective=objectives[data.draw(st.sampled_from(others))]())
    at = model.interpolant.coefficients(torch.tensor([world.time], dtype=torch.float64))
    factor = torch.as_tensor(conversion(model, wanted.objective).coefficients(at)[0]).square() / world.weight
    alpha = data.draw(st.floats(0.3, 4))
    loss = RealUID(alpha, alpha, data.draw(st.floats(0.1, 0.9)), weight_power=0.0)
    teacher = None if world.teacher is None else View(world.teacher, model, wanted.objective)
    there = replace(world, model=wanted, teacher=teacher)
    ratio = there.value(loss) / there.weight / (factor * world.value(loss))
    return (ratio - 1).abs().item()


@law("objectives", tolerance=1e-7, examples=25, where=is_row)
def translation_is_felt_as_the_theory_says(name: str, data: st.DataObject) -> float:
    """Moving all data leaves the value as it is if alpha = beta or if the row has no part of the data, and changes it otherwise.

    Advice: The coefficient of the data in `row` is wrong: it must be zero exactly where the prediction does not move with the data.
    """
    world = data.draw(worlds(space=name, wrong_teacher=False))
    alpha, by = data.draw(st.floats(0.5, 2)), data.draw(st.floats(0.5, 2))
    beta = data.draw(st.sampled_from([alpha, alpha + 0.3]))
    loss = RealUID(alpha, beta, data.draw(st.floats(0.2, 0.8)), weight_power=0.0)
    moved = replace(world, real=world.real.shifted(by), made=world.made.shifted(by))
    here, there = world.value(loss), moved.value(loss)
    change = ((there - here).abs() / (1e-3 + here)).item()
    part = world.model.row(world.model.interpolant.coefficients(torch.tensor([world.time], dtype=torch.float64))).data
    if alpha == beta or not bool(torch.as_tensor(part).abs() > 1e-9):
        return change
    return float(change < 1e-9)


@law("objectives", tolerance=1e-6, examples=10, where=lambda name: name == "score")
def dmd_is_a_difference_of_scores(name: str, data: st.DataObject) -> float:
    """The slope of KL(alpha q + (1 - alpha) p || p) in the student's mean is alpha E_q[a (score of the mixture - score of p)].

    Yin et al., "One-step Diffusion with Distribution Matching Distillation", 2023, https://arxiv.org/abs/2311.18828; real data mixed in.

    Advice: The row of the score has a wrong sign or scale: see `scores_are_gradients` first.
    """
    world = data.draw(worlds(space=name, gaussian=True, wrong_teacher=False))
    alpha = data.draw(st.floats(0.2, 1))
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    mean = world.made.mean + shift * torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None]
    moving = replace(world, made=replace(world.made, mean=mean))
    mixed = alpha * moving.q + (1 - alpha) * moving.p
    tiny = torch.finfo(mixed.dtype).tiny
    (slope,) = torch.autograd.grad((mixed * (mixed.clamp_min(tiny) / moving.p.clamp_min(tiny)).log()).sum(), shift)
    shares = torch.cat([alpha * world.made.weights, (1 - alpha) * world.real.weights], 1)
    mixture = Mixture(shares, *(torch.cat([getattr(world.made, key), getattr(world.real, key)], 1) for key in ("mean", "covariance")))
    a = torch.as_tensor(world.model.interpolant.coefficients(torch.tensor([world.time], dtype=torch.float64)).a, dtype=torch.float64)
    difference = (world.exact(mixture) - world.exact(world.real))[:, 0]
    return (slope - alpha * (a * world.q * difference).sum()).abs().item() / (1e-3 + slope.abs().item())


@law("objectives", tolerance=1e-7, examples=15, where=is_row)
def losses_curve_by_their_weight(name: str, data: st.DataObject) -> float:
    """The second difference of a model's loss, its field moved by a constant to either side, is 2 weight(t) times the constant's square.

    Advice: The loss is not `weight` times the squared error: return lambda(t) from `weight`, one number for each time.
    """
    model = data.draw(models(objective=name).filter(exactly_known))
    t, by, seed = data.draw(st.floats(0.2, 0.8)), data.draw(st.floats(0.5, 2)), data.draw(st.integers(0, 2**31))
    model = replace(model, times=TimeDistribution(t * (1 - 1e-12), t))
    batch = data.draw(mixtures(model.coupling, dimension=2)).sample(4, data.draw(generators()))

    def loss(constant: float) -> torch.Tensor:
        return model.loss(lambda x, time, condition: 0.3 * x + constant, batch, generator=torch.Generator().manual_seed(seed))

    found = loss(by) + loss(-by) - 2 * loss(0.0)
    weight = torch.as_tensor(model.weight(model.interpolant.coefficients(torch.tensor([t], dtype=torch.float64))), dtype=torch.float64)
    return ((found / (2 * weight * 2 * by**2) - 1).abs() / (1 + loss(0.0) / weight)).max().item()


@law("objectives", tolerance=1e-4, examples=15, where=lambda name: name == "drift")
def drifts_are_limits_of_transitions(name: str, data: st.DataObject) -> float:
    """The drift is the mean rate at which the prior process, run backwards from the state and knowing the data, moves in a short time.

    Advice: The row of the drift is not that of the prior process: check f and g^2 against `prior`.
    """
    model = data.draw(models(objective=name))
    assert isinstance(model.interpolant, PriorInterpolant)
    t, h = torch.tensor([data.draw(st.floats(0.2, 0.8))], dtype=torch.float64), 1e-6
    x, z, noise = torch.randn(3, 1, 2, dtype=torch.float64, generator=data.draw(generators()))
    at = model.interpolant.coefficients(t)
    state = at.state(x, z, noise)
    weight_data, weight_state, _ = pin(model.interpolant.prior(t - h), model.interpolant.step(t - h, t))
    return _gap((weight_data * x + weight_state * state - state) / h, model.row(at)(x, z, noise))


@law("objectives", tolerance=1e-9, examples=15, where=lambda name: name == "prior-score")
def prior_scores_are_gradients(name: str, data: st.DataObject) -> float:
    """The target of inverse bridge matching is the gradient of log N(state; alpha data, var) in the state, alpha and var of the prior.

    Advice: The row must be -(state - alpha data)/var with alpha and var of `prior` itself, not of the pinned bridge.
    """
    model = data.draw(models(objective=name))
    assert isinstance(model.interpolant, PriorInterpolant)
    t = torch.tensor([data.draw(st.floats(0.2, 0.8))], dtype=torch.float64)
    x, z, noise = torch.randn(3, 1, 2, dtype=torch.float64, generator=data.draw(generators()))
    at = model.interpolant.coefficients(t)
    state = at.state(x, z, noise).requires_grad_(True)
    alpha, variance = model.interpolant.prior(t)
    density = torch.distributions.Normal(alpha * x, variance.sqrt().expand(x.shape)).log_prob(state)
    return _gap(model.row(at)(x, z, noise), torch.autograd.grad(density.sum(), state)[0])
