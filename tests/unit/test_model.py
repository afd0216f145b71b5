"""Matching models: what is refused, and what their samples share."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import matchlib
from matchlib.algebra.model import MatchingModel, Moments, best_multiple
from matchlib.algebra.records import Batch, Condition
from matchlib.algebra.rows import Row
from matchlib.distillation.distillation import Distillation
from matchlib.errors import IncompatibleError
from matchlib.fields.teacher import Teacher


def test_model_refuses_a_prediction_that_it_does_not_have() -> None:
    for coupling, path, objective in (
        ("independent", "linear", "noise"),
        ("independent", "linear", "drift"),
        ("paired", "linear", "score"),
        ("paired", "trigonometric", "epsilon"),
    ):
        with pytest.raises(IncompatibleError):
            MatchingModel(matchlib.couplings[coupling](), matchlib.interpolants[path](), matchlib.objectives[objective]())


def test_model_loss_has_a_gradient_in_the_data() -> None:
    model = matchlib.families["flow"]().model(paired=False)
    x = torch.randn(3, 2, requires_grad=True)
    loss = model.loss(lambda state, time, condition: state, Batch(x), generator=torch.Generator().manual_seed(0))
    assert loss.shape == (3,)
    assert torch.autograd.grad(loss.sum(), x)[0].abs().min() > 0


def test_moments_whiten_rows_to_the_product_of_the_latents() -> None:
    """E[left right] from the moments equals the dot product of whitened rows."""
    moments = Moments(data=2.0, source=3.0, cross=1.5)
    left, right = Row(0.3, -1.2, 0.7), Row(2.0, 0.4, -0.1)
    expected = 0.3 * 2.0 * 2.0 - 1.2 * 0.4 * 3.0 + 0.7 * -0.1 + (0.3 * 0.4 - 1.2 * 2.0) * 1.5
    assert moments.whiten(left).dot(moments.whiten(right)) == pytest.approx(expected)


def test_best_multiple_leaves_a_rest_that_is_orthogonal_to_the_state() -> None:
    generator = torch.Generator().manual_seed(0)
    target, state = (torch.randn(6, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(6, generator=generator, dtype=torch.float64)
    rest = target - best_multiple(target, state, weight) * state
    assert abs((weight[:, None, None] * rest * state).sum().item()) < 1e-12
    assert best_multiple(3 * state, state).item() == pytest.approx(3.0)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", sorted(matchlib.families))
def test_sample_path_like_another_shares_what_the_data_leave_open(family: str, paired: bool) -> None:
    """Time and noise always; the source only where data and source are independent, for else it belongs to its data."""
    model = matchlib.families[family]().model(paired=paired)
    generator = torch.Generator().manual_seed(0)
    one, other = (Batch(*(torch.randn(8, 3, generator=generator) for _ in range(2))) for _ in range(2))
    point = model.sample_path(one, generator=generator)
    second = model.sample_path(other, generator=generator, like=point)
    assert torch.equal(second.data, other.data) and torch.equal(second.time, point.time)
    assert point.noise is None if second.noise is None else torch.equal(second.noise, point.noise)
    assert torch.equal(second.source, point.source) == model.coupling.independent
    assert torch.equal(second.source, other.source) == model.coupling.paired
    at = point.coefficients
    assert torch.allclose(second.state, at.state(second.data, second.source, second.noise))


def test_sample_path_like_another_has_the_labels_of_its_data() -> None:
    model, generator = matchlib.families["flow"]().model(paired=False), torch.Generator().manual_seed(0)
    one, other = (Batch(torch.zeros(4, 2), None, torch.full((4,), label)) for label in (0, 1))
    second = model.sample_path(other, generator=generator, like=model.sample_path(one, generator=generator))
    assert torch.equal(second.condition.label, other.label)


def test_model_refuses_a_field_with_nothing_to_learn() -> None:
    """On a path without noise, state and source are the data; the source, once seen, is known."""
    flow = matchlib.families["flow"]().model(paired=False)
    pairs = matchlib.couplings["paired"]()
    with pytest.raises(IncompatibleError, match="without learning anything"):
        replace(flow, coupling=pairs, sees_source=True)
    bridge = matchlib.families["bridge"]().model(paired=True)
    with pytest.raises(IncompatibleError, match="sees_source=false"):
        replace(bridge, objective=matchlib.objectives["source"]())


def test_fields_that_answer_in_another_shape_are_refused() -> None:
    """(b,) for states (b, 1) would be spread over the batch without a word."""
    model = matchlib.families["flow"]().model(paired=False)
    batch = Batch(torch.randn(5, 1), None, None)
    for shape in ((5,), (5, 1, 1), (1, 1)):
        with pytest.raises(IncompatibleError, match="answered with shape"):
            model.loss(lambda *seen, shape=shape: torch.zeros(shape), batch, generator=torch.Generator())
    teacher = Teacher(ExactlyZero(), model)
    student = matchlib.students["onestep"](teacher, ExactlyZero((4, 1)))
    with pytest.raises(IncompatibleError, match="answered with shape"):
        student(torch.zeros(4, 2), Condition(), generator=torch.Generator())
    critic = Distillation(teacher, matchlib.students["onestep"](teacher, ExactlyZero()), ExactlyZero((4, 1)), matchlib.losses["uid"]())
    two = Batch(torch.randn(4, 2), torch.randn(4, 2), None)
    with pytest.raises(IncompatibleError, match="answered with shape"):
        critic.critic_loss(prompt=two, real=two, generator=torch.Generator())


class ExactlyZero(torch.nn.Module):
    """Answers zero, in a shape of its own."""

    def __init__(self, shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.shape, self.weight = shape, torch.nn.Parameter(torch.zeros(()))

    def forward(self, state: torch.Tensor, time: torch.Tensor, condition: Condition) -> torch.Tensor:
        return self.weight + torch.zeros(self.shape or tuple(state.shape))
