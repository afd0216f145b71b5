"""Laws of how the work is done: none of it changes what is computed."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from matchlib.algebra.records import Batch
from matchlib.distillation.distillation import Distillation
from matchlib.errors import IncompatibleError
from matchlib.registry import families, losses, students
from matchlib.testing.law import law
from matchlib.testing.laws.families import setting
from matchlib.training.random import BatchSlice

SIZE = 6


def _fitting(data: st.DataObject, *names: str, size: int | None = None) -> tuple[Distillation, Batch, Batch, torch.Generator]:
    """A small distillation of plugins by name; the case does not apply where they do not fit together."""
    try:
        of, prompt, real, generator = setting(data, *names, size=size)
    except IncompatibleError:
        assume(False)
        raise
    return of, prompt, real, generator


def _gradients(loss: Callable[[], Tensor], module: torch.nn.Module) -> Tensor:
    found = torch.autograd.grad(loss(), list(module.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def _turns(of: Distillation, prompt: Batch, real: Batch, seed: int) -> tuple[Tensor, Tensor]:
    """The student's and the critic's gradients, the value of the loss before each."""

    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def student() -> Tensor:
        return of.student_loss(prompt=prompt, real=real, generator=fresh())

    def critic() -> Tensor:
        return of.critic_loss(prompt=prompt, real=real, generator=fresh())

    pairs = ((student, of.student), (critic, of.critic))
    first, second = (torch.cat([loss().detach().reshape(1), _gradients(loss, module)]) for loss, module in pairs)
    return first, second


def _gap(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> float:
    pairs = zip(found, wanted, strict=True)
    return max(((a - b).abs().max() / (1 + b.abs().max())).item() for a, b in pairs)


@law("losses", tolerance=1e-10, examples=12)
def splitting_changes_no_gradient(name: str, data: st.DataObject) -> float:
    """One graph or two in the student's turn, one evaluation or two in the critic's: the same losses and gradients, in every family.

    Advice: `separable` is declared wrongly, or the loss has state: it must be a function of the predictions alone.
    """
    family, student = data.draw(st.sampled_from(list(families))), data.draw(st.sampled_from(list(students)))
    given, prompt, real, _ = _fitting(data, family, student, name)
    seed = data.draw(st.integers(0, 2**31))
    three = (given.teacher, given.student, given.critic, given.loss, given.model.times)
    made = [_turns(Distillation(*three, two_pass=two_pass, joint_forward=join), prompt, real, seed) for two_pass, join in TRIED]
    return max(_gap(found, made[0]) for found in made[1:])


TRIED = ((False, False), (True, False), (None, True))


@law("losses", tolerance=0.0, examples=12)
def a_separable_loss_has_two_parts(name: str, data: st.DataObject) -> float:
    """A loss says that it is separable exactly if its slope in the teacher does not depend on the critic.

    Advice: Set `separable` to True exactly if the slope in the teacher does not depend on the critic.
    """
    given, _, real, generator = _fitting(data, data.draw(st.sampled_from(list(families))), "onestep", name)
    point = given.model.sample_path(real, generator=generator)
    slopes = []
    for shift in (0.0, 1.0):
        (contrast, *_) = given.predictions(point)[0]
        teacher = contrast.teacher.detach().requires_grad_()
        moved = copy.copy(contrast.__dict__) | {"teacher": teacher, "critic": contrast.critic.detach() + shift}
        slopes.append(torch.autograd.grad(given.loss.student_loss(type(contrast)(**moved)).sum(), teacher)[0])
    same = torch.allclose(slopes[0], slopes[1], rtol=1e-9, atol=1e-9)
    return float(same != given.loss.separable)


@law("families", tolerance=1e-10, examples=12)
def shares_of_a_batch_add_up(name: str, data: st.DataObject) -> float:
    """What a batch gives in parts, each drawing its own samples' numbers, is what it gives at once: losses and gradients.

    Advice: A batch in parts gives other numbers than at once: draw per sample, and state `block_size` for what is drawn jointly.
    """
    student, loss = data.draw(st.sampled_from(list(students))), data.draw(st.sampled_from(list(losses)))
    of, prompt, real, _ = _fitting(data, name, student, loss, size=SIZE)
    rows, seed = data.draw(st.integers(1, SIZE - 1)), data.draw(st.integers(0, 2**31))
    assume(of.model.coupling.block_size(SIZE) == 1)
    whole, total = _turns(of, prompt, real, seed), (torch.zeros(()), torch.zeros(()))
    for part in BatchSlice.of(SIZE).parts(rows):
        with part.drawing():
            made = _turns(of, _cut(prompt, part), _cut(real, part), seed)
        total = (total[0] + made[0] * part.rows / SIZE, total[1] + made[1] * part.rows / SIZE)
    return _gap(total, whole)


def _cut(batch: Batch, part: BatchSlice) -> Batch:
    data, source, label = (None if x is None else x[part.begin : part.end] for x in (batch.data, batch.source, batch.label))
    assert data is not None
    return Batch(data, source, label)
