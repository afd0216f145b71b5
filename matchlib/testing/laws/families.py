"""Laws of families, students and the training of either."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from matchlib.algebra.records import Batch
from matchlib.algebra.times import TimeDistribution
from matchlib.distillation.distillation import Distillation
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.teacher import Teacher
from matchlib.registry import families, losses, students
from matchlib.runs.artifact import build_field, describe_model, model_of
from matchlib.testing.law import law
from matchlib.testing.strategies import generators, shapes, sizes

CLASSES = 3


def setting(data: st.DataObject, family: str, student: str = "onestep", loss: str = "realuid", *, size: int | None = None) -> tuple:
    """A small distillation in float64 and two batches: (distillation, prompt, real, generator)."""
    paired, shape = data.draw(st.booleans()), data.draw(shapes)
    plugin = families[family]()
    model = plugin.model(paired=paired)
    torch.manual_seed(data.draw(st.integers(0, 100)))
    signature = NetworkSpec(shape, CLASSES, model.sees_source)
    field = build_field({"name": "mlp", "width": 8, "depth": 1}, signature, model, Teacher(torch.nn.Identity(), model).moments).double()
    for weight in field.parameters():  # away from the special point of a fresh network, whose output is zero
        torch.nn.init.normal_(weight, std=0.3)
    teacher = Teacher(field, model)
    generator = data.draw(generators())
    defaults = plugin.defaults(paired=paired).resolve(model, torch.randn(64, *shape, generator=generator), field)
    made = students[student](teacher, None, t_start=defaults.t_start).double()
    critic = copy.deepcopy(field)  # moved away from the teacher: where the two agree, the student's gradient vanishes
    for weight in critic.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    distillation = Distillation(teacher, made, critic, losses[loss](), defaults.times)
    prompt, real = (_batch(size or data.draw(sizes), shape, generator) for _ in range(2))
    return distillation, prompt, replace(real, **_sized(real, len(prompt.data))), generator


def _batch(size: int, shape: tuple[int, ...], generator: torch.Generator) -> Batch:
    data, source = torch.randn(2, size, *shape, dtype=torch.float64, generator=generator)
    return Batch(data, source, torch.randint(CLASSES, (size,), generator=generator))


def _sized(batch: Batch, size: int) -> dict[str, torch.Tensor]:
    index = torch.arange(size) % len(batch.data)
    return {key: getattr(batch, key)[index] for key in ("data", "source", "label")}


def _moved(module: torch.nn.Module, loss: torch.Tensor) -> bool:
    gradients = torch.autograd.grad(loss, list(module.parameters()), allow_unused=True, retain_graph=True)
    return any(g is not None and bool(g.abs().sum() > 0) for g in gradients)


@law("families", tolerance=0.0, examples=15)
def turns_change_only_their_own_module(name: str, data: st.DataObject) -> float:
    """The student's loss reaches student and critic's input, the critic's loss never the student, nothing the teacher.

    Advice: A gradient reaches a module that a step may not train, or misses the one it trains: check for detach in the model's pieces.
    """
    distillation, prompt, real, generator = setting(data, name)
    student_loss = distillation.student_loss(prompt=prompt, real=real, generator=generator)
    critic_loss = distillation.critic_loss(prompt=prompt, real=real, generator=generator)
    wrong = (
        not _moved(distillation.student, student_loss),
        not _moved(distillation.critic, critic_loss),
        _moved(distillation.student, critic_loss),
        any(weight.requires_grad for weight in distillation.teacher.parameters()),
    )
    return float(any(wrong))


@law("families", tolerance=0.0, examples=15)
def real_points_give_the_student_no_gradient(name: str, data: st.DataObject) -> float:
    """The student's loss does not depend on the real data.

    Advice: The student's loss must not read the real data: check `student_loss` and the coupling of generated points.
    """
    distillation, prompt, real, _ = setting(data, name)
    values = [
        distillation.student_loss(prompt=prompt, real=replace(real, data=other), generator=torch.Generator().manual_seed(0))
        for other in (real.data, real.data + 1)
    ]
    return (values[0] - values[1]).abs().item()


@law("families", tolerance=0.0, examples=15)
def losses_are_finite_for_any_batch(name: str, data: st.DataObject) -> float:
    """Teacher, student and critic losses are finite, in float64, for any event shape and for a batch of one.

    Advice: A loss is not finite or changes its type: keep `times` away from singular ends, and cast no tensor to float32.
    """
    distillation, prompt, real, generator = setting(data, name)
    model, field = distillation.teacher.model, distillation.critic
    parts = [
        model.loss(field, real, generator=generator).mean(),
        distillation.student_loss(prompt=prompt, real=real, generator=generator),
        distillation.critic_loss(prompt=prompt, real=real, generator=generator),
    ]
    return float(not all(torch.isfinite(part) and part.dtype == torch.float64 for part in parts))


@law("families", tolerance=0.0, examples=5)
def a_distillation_has_times_of_its_own(name: str, data: st.DataObject) -> float:
    """Generated and real points lie in the interval that a distillation is given, and in the teacher's own if it is given none.

    Advice: Draw times by `TimeDistribution.sample` only, within the interval that the model states.
    """
    given, prompt, real, generator = setting(data, name, size=5)
    outside = 0
    for times in (TimeDistribution(0.4, 0.41), None):
        of = Distillation(given.teacher, given.student, given.critic, given.loss, times)
        bounds = times or given.teacher.model.times
        generated = of.sample_path(of.generate(prompt, generator=generator), real=real, generator=generator)
        t = torch.cat([generated.time, of.model.sample_path(real, generator=generator).time])
        outside += int(((t < bounds.t_min) | (t > bounds.t_max)).sum())
    return float(outside)


@law("families", tolerance=0.0, examples=2)
def models_survive_their_description(name: str, data: st.DataObject) -> float:
    """A model described by names and fields, and built again, is the same model.

    Advice: Every piece of the model must be a registered frozen dataclass whose fields are plain numbers, strings or tuples.
    """
    model = families[name]().model(paired=data.draw(st.booleans()))
    return float(model_of(describe_model(model)) != model)


@law("students", tolerance=0.0, examples=15)
def students_answer_in_the_shape_of_data(name: str, data: st.DataObject) -> float:
    """A student maps sources to finite data of the same shape, the same for the same seed, with a gradient to its weights.

    Advice: Return finite data in the shape of `source`, drawn from the `generator`, with a graph to the weights; set `nfe`.
    """
    distillation, prompt, _, _ = setting(data, data.draw(st.sampled_from(list(families))), name)
    seed = data.draw(st.integers(0, 2**31))
    first, second = (distillation.generate(prompt, generator=torch.Generator().manual_seed(seed)).data for _ in range(2))
    fine = first.shape == prompt.data.shape and torch.isfinite(first).all() and torch.equal(first, second)
    return float(not (fine and _moved(distillation.student, first.sum()) and distillation.student.nfe >= 1))


class _Silent(TorchFunctionMode):
    """Every normal draw is zero, so that batches of different sizes meet the same noise."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.randn:
            return function(*args, **(kwargs or {}))
        return torch.zeros(*args, **{key: value for key, value in (kwargs or {}).items() if key != "generator"})


@law("students", tolerance=1e-12, examples=15)
def a_sample_does_not_depend_on_its_neighbours(name: str, data: st.DataObject) -> float:
    """Sources are mapped one by one: with the same noise, a student's answer to a batch is that to its parts.

    Advice: Map each source alone: no batch norm, and no number that depends on the size of the batch.
    """
    distillation, prompt, _, _ = setting(data, data.draw(st.sampled_from(list(families))), name, size=4)
    model, student, generator = distillation.model, distillation.student.eval(), torch.Generator()
    assert prompt.source is not None
    with _Silent():
        whole = student(prompt.source, model.condition(prompt.source, prompt.label), generator=generator)
        one = student(prompt.source[:1], model.condition(prompt.source[:1], prompt.label[:1]), generator=generator)
    return (whole[:1] - one).abs().max().item()


@law("students", tolerance=0.0, examples=15)
def students_listen_to_labels(name: str, data: st.DataObject) -> float:
    """Another label gives another sample from the same source and the same noise.

    Advice: Pass `condition.label` on to the field in every evaluation.
    """
    distillation, prompt, _, _ = setting(data, data.draw(st.sampled_from(list(families))), name)
    seed = data.draw(st.integers(0, 2**31))
    other = replace(prompt, label=(prompt.label + 1) % CLASSES)
    first, second = (distillation.generate(x, generator=torch.Generator().manual_seed(seed)).data for x in (prompt, other))
    return float(bool((first == second).flatten(1).all(1).any()))
