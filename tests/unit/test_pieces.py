"""Samplers, students, networks, data, metrics, cards: closed forms and edges."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import matchlib
from matchlib.algebra.records import Condition
from matchlib.algebra.times import TimeDistribution
from matchlib.data.readers import load_dataset
from matchlib.errors import ArtifactError, IncompatibleError, SettingError
from matchlib.evaluation.reference import Reference
from matchlib.evaluation.report import evaluate
from matchlib.evaluation.score import reference_of, scores
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.sampler import SampledField
from matchlib.fields.teacher import Teacher
from matchlib.plugins.samplers import ADAPTIVE, FIXED, ODE
from matchlib.runs.artifact import build_field
from matchlib.runs.settings import EvaluationSettings

FLOW = matchlib.families["flow"]().model(paired=False)


def exact_flow(law: Mixture, sampler: ODE, source: torch.Tensor) -> tuple[torch.Tensor, int]:
    result = sampler.sample(SampledField(GaussianField(FLOW, law), FLOW), source, None, generator=torch.Generator())
    return result.data, result.nfe


STAGES = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}


@pytest.mark.parametrize("method", sorted(STAGES))
def test_n_steps_are_n_steps(method: str) -> None:
    _, nfe = exact_flow(Mixture.normal(), ODE(method, steps=7), torch.zeros(1, 1, dtype=torch.float64))
    assert nfe == 7 * STAGES[method]


@pytest.mark.parametrize(("method", "order"), [(m, order) for m, order in FIXED.items() if order])
def test_measured_order_is_the_declared_order(method: str, order: float) -> None:
    """The exact flow of a Gaussian carries source z to mean + std z: the slope of log error against log step is the order or more."""
    law, source = Mixture.normal(1.0, 0.3), torch.tensor([[-1.3], [0.2], [2.1]], dtype=torch.float64)
    errors = [(exact_flow(law, ODE(method, steps=n), source)[0] - (1 + 0.3 * source)).abs().max().item() for n in (32, 128)]
    assert np.log(errors[0] / errors[1]) / np.log(4) > order - 0.35


@pytest.mark.parametrize("method", [*FIXED, *ADAPTIVE])
def test_every_method_of_torchdiffeq_integrates(method: str) -> None:
    source = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    data, nfe = exact_flow(Mixture.normal(1.0, 0.5), ODE(method, steps=40, rtol=1e-6, atol=1e-6), source)
    assert torch.allclose(data, 1 + 0.5 * source, atol=0.05)
    assert nfe > 1


def teacher_on(shape: tuple[int, ...], family: str = "flow") -> tuple[Teacher, NetworkSpec]:
    model = matchlib.families[family]().model(paired=False)
    signature = NetworkSpec(shape, 3)
    moments = Teacher(nn.Identity(), model).moments
    return Teacher(build_field({"name": "mlp", "width": 8, "depth": 1}, signature, model, moments), model, moments), signature


def test_a_teacher_is_a_frozen_copy() -> None:
    net = nn.Linear(2, 2)

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, state: torch.Tensor, time: torch.Tensor, condition: object) -> torch.Tensor:
            return self.net(state)

    teacher = Teacher(Field(), FLOW)
    x = torch.ones(1, 2, requires_grad=True)
    before = teacher(x, torch.zeros(1), None).detach().clone()
    with torch.no_grad():
        net.weight += 1
    assert torch.equal(teacher(x, torch.zeros(1), None), before)
    assert torch.autograd.grad(teacher(x, torch.zeros(1), None).sum(), x)[0].abs().sum() > 0
    assert not any(w.requires_grad for w in teacher.parameters())
    assert not teacher.train().training


def test_a_teacher_that_answers_in_another_shape_is_refused() -> None:
    class Wrong(nn.Module):
        def forward(self, state: torch.Tensor, time: torch.Tensor, condition: object) -> torch.Tensor:
            return state[:, :1]

    with pytest.raises(IncompatibleError, match=r"predicts shape \(1,\) for states of shape \(2,\)"):
        Teacher(Wrong(), FLOW)(torch.ones(3, 2), torch.zeros(3), None)


def test_a_student_begins_as_one_denoising_step_of_its_teacher() -> None:
    """The untrained student is the teacher's own data prediction at the start: for a flow, source - velocity(source, 1)."""
    teacher, _ = teacher_on((2,))
    for weight in teacher.parameters():
        nn.init.normal_(weight, std=0.3)
    student = matchlib.students["onestep"](teacher, None, t_start=1.0)
    source = torch.randn(4, 2)
    condition = FLOW.condition(source, torch.tensor([0, 1, 2, 0]))
    expected = source - teacher(source, torch.ones(4), condition)
    assert torch.allclose(student(source, condition, generator=torch.Generator()), expected, atol=1e-6)


def test_a_student_may_have_another_network(tmp_path: Path) -> None:
    settings = {
        "student.network": {"name": "mlp", "width": 12, "depth": 2},
        "teacher.network": {"name": "mlp", "width": 8, "depth": 1},
        "teacher.training.steps": 3,
        "evaluation.draws": 1,
    }
    made = matchlib.distill(data="moons", steps=4, out=tmp_path / "run", settings=settings)
    again = matchlib.load(tmp_path / "run")
    assert torch.equal(made.sample(5, seed=1), again.sample(5, seed=1))
    assert again.module.field.network.enter.out_features == 12


def test_a_teacher_made_in_python_is_distilled(tmp_path: Path) -> None:
    """Any module with forward(state, time, condition): here the exact field of a Gaussian, which is no registered network."""

    class Exact(GaussianField):
        def __init__(self) -> None:
            super().__init__(FLOW, Mixture.normal(dimension=2))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, *seen: object) -> torch.Tensor:
            return self.scale * super().forward(*seen).to(torch.float32)  # type: ignore[arg-type]

    made = matchlib.distill(Teacher(Exact(), FLOW), data="checkerboard", steps=4, out=tmp_path / "run", settings={"evaluation.draws": 1})
    assert made.sample(3).shape == (3, 2)
    with pytest.raises(ArtifactError, match=r"register it in matchlib\.networks"):
        matchlib.load(tmp_path / "run")


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 32, 32), (2, 3, 4, 5)])
def test_any_event_shape_is_trained_and_distilled(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "data.npz", data=rng.standard_normal((40, *shape)))
    settings = {
        "teacher.network": {"name": "mlp", "width": 8, "depth": 1},
        "teacher.training.steps": 2,
        "trainer.batch_size": 4,
        "evaluation.draws": 1,
    }
    made = matchlib.distill(data=tmp_path / "data.npz", steps=2, out=tmp_path / "run", settings=settings)
    assert made.sample(1).shape == (1, *shape)
    assert (tmp_path / "run" / "samples.png").stat().st_size > 1000


def test_the_unet_works_at_32_by_32_by_3_and_on_odd_sides() -> None:
    for shape in ((3, 32, 32), (1, 7, 9)):
        network = matchlib.networks["unet"](NetworkSpec(shape, 10), channels=8)
        state = torch.randn(2, *shape)
        from matchlib import Condition

        assert network(state, torch.rand(2), Condition(torch.tensor([1, 2]))).shape == state.shape
    with pytest.raises(IncompatibleError, match="use mlp"):
        matchlib.networks["unet"](NetworkSpec((5,)))


# -- metrics -----------------------------------------------------------------------------------------------------------


def reference(x: np.ndarray, n: int = 500) -> Reference:
    return Reference(x, x[:n], lambda y: y, n)


def test_frechet_distance_of_gaussians_is_its_closed_form() -> None:
    """|m1 - m2|^2 + |s1 - s2|^2 for commuting covariances."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200_000, 2)) * [1.0, 2.0], rng.standard_normal((200_000, 2)) * [1.5, 1.0] + [1.0, 0.0]
    metric = matchlib.metrics["frechet-raw"](reference(x))
    metric.update(y)
    assert metric.compute() == pytest.approx(1.0 + 0.25 + 1.0, rel=0.02)


def test_exact_wasserstein_of_a_shift_is_the_shift() -> None:
    x = np.random.default_rng(0).standard_normal((500, 2))
    metric = matchlib.metrics["w2"](reference(x))
    metric.update(x + np.array([3.0, 4.0]))
    assert metric.compute() == pytest.approx(5.0)


def test_mmd_is_unbiased() -> None:
    """Its mean over many pairs of samples of one law is zero, within 5 standard errors; the biased estimator's would not be."""
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        metric = matchlib.metrics["mmd"](reference(rng.standard_normal((40, 2)), 40))
        metric.update(rng.standard_normal((40, 2)))
        values.append(metric.compute())
    assert abs(np.mean(values)) < 5 * np.std(values) / len(values) ** 0.5


def test_memorised_samples_are_exposed() -> None:
    rng = np.random.default_rng(0)
    train, held = rng.standard_normal((2, 500, 5))
    given = Reference(train, held, lambda y: y, 500)
    fresh = rng.standard_normal((500, 5))
    third = np.concatenate([train[:167], fresh[:333]])  # which the median of distances does not see
    for name, samples, expected in (
        ("nearest-ratio", train, 0.0),
        ("nearest-ratio", fresh, 1.0),
        ("copies", train, 1.0),
        ("copies", fresh, 0.05),
        ("copies", third, 1 / 3 + 2 / 3 * 0.05),
    ):
        metric = matchlib.metrics[name](given)
        metric.update(samples)
        assert metric.compute() == pytest.approx(expected, abs=0.1 if name == "nearest-ratio" else 0.05), name


def test_manifold_metrics_at_their_extremes() -> None:
    x = np.random.default_rng(0).standard_normal((300, 3))
    for name in ("precision", "recall", "density", "coverage"):
        far, same = (matchlib.metrics[name](reference(x, 300)) for _ in range(2))
        far.update(x + 100)
        same.update(x + 1e-9)
        assert far.compute() == 0.0
        assert same.compute() >= 0.99


def test_held_out_digits_score_better_than_noise() -> None:
    digits = matchlib.datasets["digits"]()
    given, _ = reference_of(digits)
    good, bad = scores(given, digits.held_out.data), scores(given, torch.randn(360, 1, 8, 8))
    assert good["frechet"] < 1
    assert bad["frechet"] > 10
    assert good["coverage"] > 0.9
    assert bad["coverage"] < 0.1


# -- cards -------------------------------------------------------------------------------------------------------------


def test_a_saved_student_samples_the_same(finished: Path) -> None:
    one, two = matchlib.load(finished), matchlib.load(finished / "student")
    assert torch.equal(one.sample(7, seed=3), two.sample(7, seed=3))
    assert one.nfe == 1
    assert not torch.equal(one.sample(7, seed=3), one.sample(7, seed=4))


def test_files_hold_no_pickle(finished: Path) -> None:
    allowed = {".safetensors", ".json", ".jsonl", ".yaml", ".png"}
    assert {path.suffix for path in finished.rglob("*") if path.is_file()} <= allowed


def test_evaluation_has_the_keys_of_the_contract(finished: Path) -> None:
    report = json.loads((finished / "evaluation.json").read_text())
    keys = {"frechet", "frechet_raw", "sliced_wasserstein"}
    assert {"data", "reference", "samples", "features", "student", "teacher", "held_out"} <= set(report)
    assert keys <= set(report["held_out"])
    assert "nfe" not in report["held_out"]
    for kind, nfe in (("student", 1), ("teacher", 50)):
        assert keys | {"nfe", "seconds"} <= set(report[kind])
        assert report[kind]["nfe"] == nfe


@pytest.mark.parametrize("labels", [10, -1, [1, 2], 0.5])
def test_labels_out_of_range_are_refused(finished: Path, labels: object) -> None:
    with pytest.raises(SettingError, match="integers from 0 to 9"):
        matchlib.load(finished).sample(3, labels=labels)


def test_sources_are_needed_or_drawn_from_the_held_out_pairs(tmp_path: Path) -> None:
    settings = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "teacher.training.steps": 2, "evaluation.draws": 1}
    made = matchlib.distill("bridge", data="digits-restore", steps=2, out=tmp_path / "run", settings=settings)
    data = load_dataset("digits-restore")
    sources = data.denormalize(data.held_out.source[:4])
    drawn = made.sample(4, seed=0, labels=data.held_out.label[:4])
    assert torch.allclose(made.sample(4, seed=0, labels=data.held_out.label[:4], source=sources), drawn, atol=1e-4)
    with pytest.raises(SettingError, match="source must have shape"):
        made.sample(4, source=sources[:3])


def test_a_time_interval_inside_which_a_path_is_singular_can_be_chosen() -> None:
    model = replace(FLOW, times=TimeDistribution(0.1, 0.9))
    assert model.probe().time.min() > 0.1


class TooLarge(nn.Module):
    """Exact, but for data that it predicts a thousand times too large."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, state: torch.Tensor, time: torch.Tensor, condition: Condition) -> torch.Tensor:
        return 1000 * self.field(state, time, condition)


@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_clipping_keeps_samples_within_the_limits_of_the_data(name: str) -> None:
    """A clipped sampler ends inside the limits whatever the field says, one without is carried away, and wide limits change nothing."""
    model = matchlib.families["diffusion"]().model(paired=False)
    exact = GaussianField(model, Mixture.normal(0.0, 1.0))
    source = torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def drawn(field: nn.Module, clip: bool, limits: tuple[float, float]) -> torch.Tensor:
        sampler = matchlib.samplers.build({"name": name, "steps": 8, "clip": clip})
        return sampler.sample(SampledField(field, model, limits=limits), source, None, generator=torch.Generator().manual_seed(1)).data

    assert drawn(TooLarge(exact), True, (-2.0, 2.0)).abs().max() <= 2
    assert drawn(TooLarge(exact), False, (-2.0, 2.0)).abs().max() > 100
    assert torch.equal(drawn(exact, True, (-1e3, 1e3)), drawn(exact, False, (-2.0, 2.0)))


def test_clipped_samples_are_scored_clipped(finished: Path, tmp_path: Path) -> None:
    """With ``clip`` the scores are those of samples inside the limits, and others where samples leave them."""
    shutil.copytree(finished, tmp_path / "run")
    generator, digits = matchlib.load(finished), load_dataset("digits")
    dataset = replace(digits, limits=(digits.shift, digits.shift + 1e-3))  # an untrained student keeps within those of the digits
    low, high = dataset.model_limits
    made = generator.draw(360, seed=0).data
    assert made.amax() > high or made.amin() < low
    reports = [
        evaluate(tmp_path / "run", {"student": generator}, dataset, EvaluationSettings(draws=1, metrics=("frechet-raw",), clip=clip), 0)
        for clip in (False, True)
    ]
    expected = [scores(reference_of(dataset)[0], x, ["frechet-raw"])["frechet_raw"] for x in (made, made.clamp(low, high))]
    assert [report["student"]["frechet_raw"] for report in reports] == pytest.approx(expected)
    assert expected[0] != expected[1]
