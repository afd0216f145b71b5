"""Students: one step, a few, and networks of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib.algebra.model import Moments
from matchlib.algebra.records import Condition
from matchlib.errors import SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.teacher import Teacher
from matchlib.runs.artifact import build_field

FLOW = matchlib.families["flow"]().model(paired=False)


EXACT = Mixture.normal(0.7, 0.5)


class Counting(nn.Module):
    """The exact field of a Gaussian, which remembers the times that it is asked at."""

    def __init__(self, model: matchlib.MatchingModel) -> None:
        super().__init__()
        self.exact, self.weight = GaussianField(model, EXACT), nn.Parameter(torch.ones((), dtype=torch.float64))
        self.asked: list[Tensor] = []

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.asked.append(time.detach())
        return self.weight * self.exact(state, time, condition)


def student(steps: int, family: str = "flow", **settings: object) -> matchlib.Student:
    plugin = matchlib.families[family]()
    model, teacher = plugin.model(paired=False), Teacher(Counting(plugin.model(paired=False)), plugin.model(paired=False), Moments())
    t_start = plugin.defaults(paired=False).resolve(model, 1.6 * torch.randn(64, 1), teacher).t_start
    return matchlib.students["fewstep"](teacher, None, t_start=t_start, steps=steps, **settings)


def sample(of: matchlib.Student, n: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    source = torch.randn(n, 1, dtype=torch.float64, generator=generator)
    return of(source, Condition(), generator=generator)


def teacher_on(shape: tuple[int, ...], family: str = "flow") -> tuple[Teacher, NetworkSpec]:
    model = matchlib.families[family]().model(paired=False)
    signature = NetworkSpec(shape, 3)
    moments = Teacher(nn.Identity(), model).moments
    return Teacher(build_field({"name": "mlp", "width": 8, "depth": 1}, signature, model, moments), model, moments), signature


def test_onestep_begins_as_one_denoising_step_of_its_teacher() -> None:
    """The untrained student is the teacher's own data prediction at the start: for a flow, source - velocity(source, 1)."""
    teacher, _ = teacher_on((2,))
    for weight in teacher.parameters():
        nn.init.normal_(weight, std=0.3)
    student = matchlib.students["onestep"](teacher, None, t_start=1.0)
    source = torch.randn(4, 2)
    condition = FLOW.condition(source, torch.tensor([0, 1, 2, 0]))
    expected = source - teacher(source, torch.ones(4), condition)
    assert torch.allclose(student(source, condition, generator=torch.Generator()), expected, atol=1e-6)


@pytest.mark.runs
def test_student_network_may_be_another_than_the_teachers(tmp_path: Path) -> None:
    settings = {
        "student.network": {"name": "mlp", "width": 12, "depth": 2},
        "teacher.network": {"name": "mlp", "width": 8, "depth": 1},
        "teacher.training.steps": 3,
        "evaluation.metrics": ["sliced-wasserstein"],
    }
    made = matchlib.distill(data="moons", steps=4, out=tmp_path / "run", settings=settings)
    again = matchlib.load(tmp_path / "run")
    assert torch.equal(made.sample(5, seed=1), again.sample(5, seed=1))
    assert again.module.field.network.enter.out_features == 12


def test_fewstep_of_one_step_is_onestep() -> None:
    few = student(1).eval()
    one = matchlib.students["onestep"](Teacher(Counting(FLOW), FLOW), None, t_start=1.0)
    assert torch.allclose(sample(few), sample(one))


@pytest.mark.parametrize("family", list(matchlib.families))
@pytest.mark.parametrize("steps", [2, 4])
def test_fewstep_evaluates_once_a_step_down_an_even_grid(family: str, steps: int) -> None:
    few = student(steps, family).eval()
    x = sample(few)
    assert torch.isfinite(x).all()
    asked = torch.stack([t[0] for t in few.field.asked])
    low, start = few.model.times.t_min, few.t_start
    expected = torch.tensor([low + (start - low) * k / steps for k in range(steps, 0, -1)], dtype=torch.float64)
    assert few.nfe == steps == len(asked)
    assert torch.allclose(asked, expected)


def test_fewstep_variant_one_has_one_graph_at_a_time_of_its_own_for_each_sample() -> None:
    few = student(4, variant="one").train()
    sample(few, 400)
    *walk, last = few.field.asked
    assert len(walk) == 3
    counts = torch.stack([(last == t).sum() for t in few.times])
    assert counts.sum() == 400
    assert counts.min() > 60


def test_fewstep_variant_chain_carries_the_gradient_through_every_step() -> None:
    chain = student(4).train()
    (slope,) = torch.autograd.grad(sample(chain, 50).sum(), chain.field.weight)
    assert torch.isfinite(slope)
    h = 1e-6
    with torch.no_grad():
        values = []
        for by in (h, -h):
            chain.field.weight.fill_(1 + by)
            values.append(sample(chain, 50).sum())
    assert torch.allclose(slope, (values[0] - values[1]) / (2 * h), rtol=1e-5)


def test_fewstep_with_more_steps_of_an_exact_process_is_nearer_to_the_distribution() -> None:
    """On a diffusion, whose transitions are its posterior, an exact mean gains variance with every step."""
    spread = [sample(student(k, "diffusion-vp").eval(), 4000).std().item() for k in (1, 4, 16)]
    assert spread[0] < spread[1] < spread[2] < 0.55


@pytest.mark.parametrize("settings", [{"steps": 0}, {"steps": 2.5}, {"steps": 2, "variant": "none"}])
def test_fewstep_refuses_wrong_settings(settings: dict) -> None:
    with pytest.raises(SettingError, match="fewstep"):
        matchlib.students["fewstep"](Teacher(Counting(FLOW), FLOW), None, **settings)


@pytest.mark.runs
def test_fewstep_is_saved_with_its_own_grid(tmp_path: Path) -> None:
    settings = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "teacher.training.steps": 2, "student.steps": 3}
    made = matchlib.distill(
        "flow", "moons", "fewstep", steps=4, out=tmp_path / "run", settings=settings | {"evaluation.metrics": ["sliced-wasserstein"]}
    )
    again = matchlib.load(tmp_path / "run")
    assert again.module.nfe == 3
    assert torch.equal(again.module.times, made.module.times)
    assert torch.equal(again.sample(6, seed=2), made.sample(6, seed=2))


def test_fewstep_keeps_the_source_that_its_network_sees() -> None:
    """The state at the second time contains the source that the network is told of, b(t) times."""
    path, data = matchlib.interpolants["noisy-linear"](), matchlib.objectives["data"]()
    model = replace(FLOW, interpolant=path, objective=data, sees_source=True)
    seen = []

    class Zero(nn.Module):
        def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
            seen.append((state, time, condition.source))
            return torch.zeros_like(state)

    student = matchlib.students["fewstep"](Teacher(Zero(), model), None, steps=2)
    source = torch.randn(5000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    student(source, model.condition(source, None), generator=torch.Generator().manual_seed(1))
    state, time, told = seen[1]
    slope = (state * told).mean() / told.square().mean()
    assert slope == pytest.approx(float(time[0]), abs=0.05)
