"""Starts with the mean and the axes of the data."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib.algebra.records import Condition
from matchlib.algebra.times import time_of
from matchlib.data.dataset import Dataset
from matchlib.distillation.start import GaussianStart, axes_of, principal_axes
from matchlib.distillation.student import Student
from matchlib.errors import IncompatibleError, MatchlibError, SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.sampler import SampledField
from matchlib.fields.teacher import Teacher
from matchlib.runs import settings as run_settings
from matchlib.runs.artifact import build_student
from matchlib.runs.build import build

NETWORK = {"name": "mlp", "width": 8, "depth": 1}


def spread(n: int = 400, d: int = 6) -> Tensor:
    """Data with a mean, and axes of other lengths than those of the coordinates."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]
    scales = torch.logspace(0.5, -1.0, d, dtype=torch.float64)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * scales) @ turn.mT + torch.arange(d)


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3)])
@pytest.mark.parametrize("path", ["vp-linear", "ve", "vp-discrete"])
def test_states_of_a_start_have_mean_and_covariance_of_noisy_data(path: str, shape: tuple[int, ...]) -> None:
    """``b s(z)`` is ``a m`` at z = 0, and its linear part L has ``L L^T = a^2 C + b^2``: of the data's own moments."""
    interpolant, data, t = matchlib.interpolants[path](), spread(), 0.35
    at = interpolant.coefficients(torch.tensor([t], dtype=torch.float64))
    a, b = float(at.a), float(at.b)
    start = GaussianStart(shape, 6).double()
    start.fit(data.reshape(-1, *shape), interpolant, t)
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    mean = b * start(zero).flatten()
    linear = b * (start(torch.eye(6, dtype=torch.float64).reshape(6, *shape)) - start(zero)).flatten(1)
    assert torch.allclose(mean, a * data.mean(0), rtol=1e-6)
    assert torch.allclose(linear.mT @ linear, a**2 * torch.cov(data.mT) + b**2 * torch.eye(6), rtol=1e-6, atol=1e-6)
    assert torch.allclose(linear, linear.mT, atol=1e-9)


def test_a_start_lies_where_the_flow_of_gaussian_data_leads() -> None:
    """The deterministic sampler with the exact field of N(m, s^2), begun at z, passes through ``b s(z)``."""
    model = matchlib.families["diffusion-vp"]().model(paired=False)
    data = torch.linspace(-1.0, 3.0, 1000, dtype=torch.float64)[:, None]
    mean, std = float(data.mean()), float(data.std())
    law = Mixture.normal(mean, std)
    of = SampledField(GaussianField(model, law), model, law.moments())
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    sampler = matchlib.samplers["ode"](method="heun2", steps=400)
    states = dict(sampler.trajectory(of, z, None, generator=torch.Generator()))
    t = min(states, key=lambda t: abs(float(t) - 0.4))
    start = GaussianStart((1,), 1).double()
    start.fit(data, model.interpolant, float(t))
    b = float(model.interpolant.coefficients(torch.tensor([float(t)], dtype=torch.float64)).b)
    assert torch.allclose(states[t], b * start(z), atol=2e-2)
    assert not torch.allclose(states[t], b * z, atol=0.3)


def test_principal_axes_are_those_of_the_covariance() -> None:
    data = spread()
    for x in (data, data[:5]):  # more samples than numbers, and fewer
        mean, axes, variances = principal_axes(x)
        assert torch.allclose(mean, x.mean(0))
        assert torch.allclose(axes @ axes.mT, torch.eye(len(axes), dtype=torch.float64), atol=1e-9)
        assert torch.allclose(axes.mT @ torch.diag(variances) @ axes, torch.cov(x.mT), atol=1e-9)
    assert len(principal_axes(data[:5])[2]) == 4


def test_a_start_keeps_fewer_axes_of_larger_events() -> None:
    assert [axes_of(shape) for shape in ((2,), (1, 28, 28), (3, 256, 256), (3, 2048, 2048))] == [2, 128, 21, 1]


def test_students_of_models_that_end_in_noise_alone_start_with_the_axes_of_the_data() -> None:
    kept = {}
    for teacher, given in (("diffusion-vp", {}), ("diffusion", {}), ("flow", {}), ("diffusion-vp", {"student.axes": 0})):
        parts = build(run_settings.resolve("distill", settings={"teacher.name": teacher, "data.name": "digits", **given})).distillation
        assert parts is not None
        start = parts.student.start
        kept[teacher, *given] = len(start.gains) if isinstance(start, GaussianStart) else type(start)
        assert not isinstance(start, GaussianStart) or start.gains[0] > 0.1
    assert kept == {
        ("diffusion-vp",): 64, ("diffusion",): 64, ("flow",): nn.Identity, ("diffusion-vp", "student.axes"): nn.Identity
    }  # fmt: skip


@pytest.mark.runs
@pytest.mark.parametrize("student", [{"name": "onestep"}, {"name": "fewstep", "steps": 2}], ids=["onestep", "fewstep"])
def test_a_student_with_a_start_is_loaded_and_goes_on(tmp_path: Path, student: dict) -> None:
    data = Dataset.from_arrays("spread", spread().float())
    settings = {"teacher.network": NETWORK, "teacher.training.steps": 2, "trainer.steps": 2, "evaluation.draws": 1, "loss.name": "uid"}
    chosen = settings | {f"student.{key}": value for key, value in student.items()}
    made = matchlib.distill("diffusion-vp", data, out=tmp_path / "run", settings=chosen)
    loaded = matchlib.load(tmp_path / "run", data=data)
    assert isinstance(loaded.module.start, GaussianStart)
    assert torch.equal(loaded.sample(4), made.sample(4))
    further = {**settings, "student.name": str(tmp_path / "run")}
    again = matchlib.distill(str(tmp_path / "run"), data, out=tmp_path / "again", settings=further)
    assert torch.equal(again.module.start.axes, loaded.module.start.axes)
    for x in (loaded.module.start.mean, loaded.module.start.gains):
        assert not x.requires_grad
    for change in ({"axes": 7}, {"axes": -1}, {"axes": 2**40}, {"axes": "many"}):
        tree = matchlib.io.read_json(tmp_path / "run" / "student" / "config.json")
        tree["student"] |= change
        matchlib.io.write_json(tmp_path / "run" / "student" / "config.json", tree)
        with pytest.raises(MatchlibError, match="axes"):
            matchlib.load(tmp_path / "run", data=data)


def test_the_time_of_a_start_is_the_scale_of_the_data() -> None:
    """Where noise over signal is the geometric mean of the axes' scales, weighted by variance."""
    model = matchlib.families["diffusion-vp"]().model(paired=False)
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.tensor([4.0, 2.0])
    found = matchlib.families["diffusion-vp"]().defaults(paired=False).resolve(model, x, nn.Linear(2, 2))
    at = model.interpolant.coefficients(torch.tensor(found.t_start, dtype=torch.float64))
    assert math.log(float(at.b) / float(at.a)) == pytest.approx((16 * math.log(4) + 4 * math.log(2)) / 20, abs=0.05)


class Bare(Student):
    """A student with no start of its own."""

    nfe = 1

    def __init__(self, teacher: Teacher, field: nn.Module | None, *, t_start: float = 1.0) -> None:
        super().__init__()

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        return source


def test_a_student_without_a_start_is_told_what_to_set() -> None:
    model = matchlib.families["diffusion-vp"]().model(paired=False)
    teacher = Teacher(nn.Linear(2, 2), model)
    matchlib.students.register("bare")(Bare)
    try:
        assert isinstance(build_student({"name": "bare"}, teacher, NetworkSpec((2,), None)), Bare)
        with pytest.raises(SettingError, match=r"bare has no attribute start.*student.axes=0"):
            build_student({"name": "bare", "axes": 2}, teacher, NetworkSpec((2,), None))
    finally:
        matchlib.students.unregister("bare")


def test_axes_are_refused_where_the_source_is_data() -> None:
    settings = {"teacher.name": "bridge", "data.name": "digits-restore", "student.axes": 5}
    with pytest.raises(IncompatibleError, match=r"student.axes=5.*set it to 0"):
        build(run_settings.resolve("distill", settings=settings))


def test_an_untrained_student_with_a_start_spreads_more_widely() -> None:
    """From N(0, s^2) and an exact teacher, where b = a s: to s / sqrt 2, where plain noise at that time would give s / 2."""
    model, std = matchlib.families["diffusion-vp"]().model(paired=False), 2.0
    teacher = Teacher(GaussianField(model, Mixture.normal(0.0, std)), model)
    data = torch.tensor([[-std], [std]], dtype=torch.float64) / math.sqrt(2)
    t = time_of(model.interpolant, math.log(std), model.times)
    z = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    for axes, expected in ((0, std / 2), (1, std / math.sqrt(2))):
        student = build_student({"name": "onestep", "t_start": t, "axes": axes}, teacher, NetworkSpec((1,), None)).double()
        if isinstance(student.start, GaussianStart):
            student.start.fit(data, model.interpolant, t)
        with torch.no_grad():
            assert student(z, Condition(), generator=torch.Generator())[1].item() == pytest.approx(expected, rel=1e-3)
