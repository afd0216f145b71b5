"""Laws of objectives with several heads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st

from matchlib.algebra.convert import View
from matchlib.algebra.records import Condition
from matchlib.distillation.distillation import Distillation
from matchlib.fields.exact import GaussianField
from matchlib.fields.teacher import Teacher
from matchlib.plugins.losses import RealUID
from matchlib.registry import objectives
from matchlib.testing.law import law
from matchlib.testing.strategies import batch_for, exactly_known, generators, is_row, joint_models, mixtures, readable, seen, times_in
from matchlib.testing.world import AffineStudent


def several(name: str) -> bool:
    """Whether an objective has several heads."""
    return not is_row(name)


@law("objectives", tolerance=1e-9, where=several)
def the_loss_of_heads_is_their_sum(name: str, data: st.DataObject) -> float:
    """The loss of a field with several heads is the sum of the losses of its heads, each on its own at the same points.

    Advice: `heads` must list one objective for each row that is predicted, in the order of the field's answer.
    """
    model = data.draw(joint_models(name))
    batch, seed = batch_for(4, (2,), data.draw(generators())), data.draw(st.integers(0, 2**31))
    law_ = data.draw(mixtures(model.coupling, dimension=2))
    whole, *parts = (
        one.loss(GaussianField(one, law_), batch, generator=torch.Generator().manual_seed(seed))
        for one in (model, *(replace(model, objective=head) for head in model.objective.heads))
    )
    return (whole - sum(parts)).abs().max().item() / (1 + whole.abs().max().item())


@law("objectives", tolerance=1e-7, examples=40, where=several)
def heads_together_are_read_exactly(name: str, data: st.DataObject) -> float:
    """Whatever exact heads determine together is read exactly, as velocity and score from the split of a two-sided path.

    Advice: A head's row is not what it predicts: check the rows of `heads` one by one.
    """
    model = data.draw(joint_models(name))
    assume(exactly_known(model))
    wanted = data.draw(st.sampled_from([other for other in objectives if readable(model, other) and not seen(model, other)]))
    generator, t = data.draw(generators()), data.draw(times_in(model))
    exact = GaussianField(model, data.draw(mixtures(model.coupling, dimension=2)))
    state, source = torch.randn(2, len(t), 2, dtype=torch.float64, generator=generator)
    point = (state, t, model.condition(source, None))
    goal = objectives[wanted]()
    truth = GaussianField(replace(model, objective=goal), exact.distribution)(*point)
    return ((View(exact, model, goal)(*point) - truth).norm() / (1 + truth.norm())).item()


class _Named(torch.nn.Module):
    """A field with one weight, so that it can be trained."""

    def __init__(self, field: GaussianField) -> None:
        super().__init__()
        self.field, self.weight = field, torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, state: torch.Tensor, time: torch.Tensor, condition: Condition) -> torch.Tensor:
        return self.weight * self.field(state, time, condition)


@law("objectives", tolerance=1e-8, examples=15, where=several)
def heads_are_distilled_alone_or_together(name: str, data: st.DataObject) -> float:
    """A loss in the space of one head is the distillation of that head alone; in the space of all, it is the sum over heads.

    Advice: `heads` must be registered objectives of one row each, so that a loss can name one of them by `space`.
    """
    model = data.draw(joint_models(name))
    assume(exactly_known(model))
    teacher, critic = (data.draw(mixtures(model.coupling)) for _ in range(2))
    student = AffineStudent(torch.tensor([0.3]), 0.5, 0.4)
    loss = RealUID(2.0, 2.0, 0.5, weight_power=0.0)
    batches = [batch_for(4, (1,), data.draw(generators())) for _ in range(2)]
    batches = [replace(batch, label=None) for batch in batches]
    seed = data.draw(st.integers(0, 2**31))

    def both(of: Distillation) -> torch.Tensor:
        generators_ = (torch.Generator().manual_seed(seed) for _ in range(2))
        losses_: tuple[Any, ...] = (of.student_loss, of.critic_loss)
        parts = zip(losses_, generators_, strict=True)
        return torch.stack([part(prompt=batches[0], real=batches[1], generator=generator) for part, generator in parts]).detach()

    def distillation(own: object, space: str | None) -> torch.Tensor:
        fields = [_Named(GaussianField(own, x)) for x in (teacher, critic)]  # type: ignore[arg-type]
        three = Teacher(fields[0], own), student, fields[1]  # type: ignore[arg-type]
        return torch.stack([both(Distillation(*three, replace(loss, space=space), two_pass=split)) for split in (False, True)])

    names = {head: objectives.name_of(head) for head in model.objective.heads}
    alone = {head: distillation(replace(model, objective=head), None) for head in names}
    errors = [distillation(model, names[head]) - alone[head] for head in names]
    errors.append(distillation(model, None) - sum(alone.values()))
    size = 1 + max(x.abs().max().item() for x in alone.values())
    return max(error.abs().max().item() for error in errors) / size
