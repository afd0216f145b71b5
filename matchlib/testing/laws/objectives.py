"""Laws of objectives: rows, conversions, minimisers."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import assume
from hypothesis import strategies as st

from matchlib.algebra.convert import View, conversion
from matchlib.algebra.model import MatchingModel, Moments
from matchlib.distillation.field import Preconditioned
from matchlib.registries import objectives
from matchlib.testing.gaussian import GaussianField
from matchlib.testing.law import law
from matchlib.testing.strategies import generators, law_for, models, readable, seen, times_in


def _states(data: st.DataObject, model: MatchingModel) -> tuple:
    """An exact field, and a point to ask it at."""
    exact = GaussianField(model, data.draw(law_for(model)))
    generator = data.draw(generators())
    t = data.draw(times_in(model))
    state, source = torch.randn(2, len(t), 2, dtype=torch.float64, generator=generator)
    return exact, (state, t, model.condition(source, None))


def _gap(left: torch.Tensor, right: torch.Tensor) -> float:
    return ((left - right).norm() / (1 + right.norm())).item()


@law("objectives", tolerance=1e-7, examples=60)
def conversions_are_exact(name: str, data: st.DataObject) -> float:
    """T14: an exact field read as another prediction is the exact field of that prediction (theory: one linear solve modulo relations)."""
    model = data.draw(models(objective=name))
    assume(model.coupling.gaussian_source or model.coupling.reads_source)
    wanted = data.draw(st.sampled_from([other for other in objectives if readable(model, other)]))
    exact, point = _states(data, model)
    return _gap(
        View(exact, model, objectives[wanted]())(*point), GaussianField(replace(model, objective=objectives[wanted]()), exact.law)(*point)
    )


@law("objectives", tolerance=1e-9)
def reading_as_itself_changes_nothing(name: str, data: st.DataObject) -> float:
    """T14: the conversion of a prediction to itself is the identity."""
    model = data.draw(models(objective=name))
    generator, t = data.draw(generators()), data.draw(times_in(model))
    field, state, source = torch.randn(3, len(t), 2, dtype=torch.float64, generator=generator)
    read = conversion(model, model.objective)((field,), state, model.interpolant.coefficients(t), source)
    return _gap(read, field)


@law("objectives", tolerance=1e-5, examples=60)
def conversions_invert_and_compose(name: str, data: st.DataObject) -> float:
    """T14: where p determines q and q determines r, reading p as q as r is reading p as r; with r = p, it is p.

    For predictions that the field does not see anyway: of those any value is a possible one.
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


@law("objectives", tolerance=1e-9, examples=40)
def conversions_hold_on_latents(name: str, data: st.DataObject) -> float:
    """T14: as rows, wanted = sum of coefficients times (predicted, known), up to the relations of the model."""
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


@law("objectives", tolerance=5.0, examples=10)
def the_exact_field_minimises_the_loss(name: str, data: st.DataObject) -> float:
    """The error of the exact field is uncorrelated with 1 and with the state, within 5 standard errors: it is the regression of the row."""
    model = data.draw(models(objective=name))
    assume(model.coupling.gaussian_source or model.coupling.reads_source)
    given = data.draw(law_for(model))
    generator = data.draw(generators())
    batch = given.sample(4000, (1,), generator)
    t = data.draw(times_in(model, 1)).expand(4000)
    point = model.join(model.coupling.pair(batch, generator=generator), t, generator=generator)
    error = GaussianField(model, given)(point.state, t, point.condition) - model.target(point)
    moments = [error, error * (point.state - point.state.mean()) / point.state.std()]
    return max((m.mean() / (m.std() / len(m) ** 0.5 + 1e-12)).abs().item() for m in moments)


@law("objectives", tolerance=0.0, examples=40)
def weights_are_positive(name: str, data: st.DataObject) -> float:
    """lambda(t) > 0 and finite."""
    model = data.draw(models(objective=name))
    weight = torch.as_tensor(model.weight(model.interpolant.coefficients(data.draw(times_in(model)))))
    return float(not (torch.isfinite(weight).all() and (weight > 0).all()))


@law("objectives", tolerance=5.0, examples=10)
def preconditioning_has_unit_variance(name: str, data: st.DataObject) -> float:
    """Karras et al. 2022: a preconditioned network's input and target have variance one, within 5 standard errors."""
    model = data.draw(models(objective=name))
    assume(model.coupling.gaussian_source or model.coupling.reads_source)
    given = replace(data.draw(law_for(model)), mean=0.0)
    n, generator = 4000, data.draw(generators())
    batch = given.sample(n, (1,), generator)
    cross = given.correlation * given.std * given.source_std
    field = Preconditioned(torch.nn.Identity(), model, Moments(given.std**2, given.source_std**2, cross))
    t = data.draw(times_in(model, 1)).expand(n)
    point = model.join(model.coupling.pair(batch, generator=generator), t, generator=generator)
    inner, skip, out = (torch.as_tensor(scale)[:, None] for scale in field.scales(t))
    assume(out.min() > 1e-6)
    seen, target = inner * point.state, (model.target(point) - skip * point.state) / out
    return max((x.square().mean() - 1).abs().item() * (n / 2) ** 0.5 for x in (seen, target))
