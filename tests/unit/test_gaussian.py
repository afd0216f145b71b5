"""Exact teachers: ``--teacher gaussian``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import matchlib
from matchlib.algebra.records import Batch, Condition
from matchlib.errors import IncompatibleError, SettingError
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.plugins.couplings import MinibatchOT
from matchlib.plugins.networks.gaussian import Gaussian

pytestmark = pytest.mark.runs

FLOW = matchlib.families["flow"]().model(paired=False)
SMALL = {
    "teacher.network": {"name": "mlp", "width": 8, "depth": 1},
    "trainer.batch_size": 8,
    "evaluation.draws": 1,
    "evaluation.metrics": ["sliced-wasserstein"],
}


def distilled(folder: Path, data: Any, **distribution: Any) -> matchlib.runs.pipeline.Pipeline:
    settings = SMALL | {f"teacher.distribution.{key}": value for key, value in distribution.items()}
    return matchlib.distill("gaussian", data, steps=4, out=folder, settings=settings)


def test_gaussian_teacher_of_digits_is_distilled_and_loaded(tmp_path: Path) -> None:
    """One Gaussian a class; student and critic are networks of their own, and nothing of the teacher was trained."""
    distilled(tmp_path / "run", "digits")
    teacher = matchlib.load(tmp_path / "run", of="teacher")
    assert not list(teacher.module.parameters())
    assert not (tmp_path / "run" / "checkpoints" / "teacher-00000000.safetensors").exists()
    samples = teacher.sample(300, labels=3)
    data = matchlib.datasets["digits"]()
    real = data.denormalize(data.train.data[data.train.label == 3])
    assert (samples.mean(0) - real.mean(0)).abs().max() < 5 * 16 / 300**0.5 / 2
    assert matchlib.load(tmp_path / "run").sample(2).shape == (2, 1, 8, 8)


def test_gaussian_mixture_is_fitted_to_points(tmp_path: Path) -> None:
    settings = SMALL | {"teacher.distribution.components": 8, "data.labels": False}
    matchlib.distill("gaussian", "eight-gaussians", steps=4, out=tmp_path / "run", settings=settings)
    report = matchlib.load(tmp_path / "run", of="teacher")
    fit = report.module.field.exact.distribution
    assert fit.weights.shape == (1, 8)
    assert (fit.weights - 1 / 8).abs().max() < 0.02
    radius = fit.mean[0, :, 0].norm(dim=-1)
    assert (radius / radius.mean() - 1).abs().max() < 0.02


def test_gaussian_is_fitted_to_pairs_jointly(tmp_path: Path) -> None:
    """With a bridge's model the source is seen, and data given source have the regression's mean."""
    rng = np.random.default_rng(0)
    source = rng.standard_normal((500, 2))
    np.savez(tmp_path / "pairs.npz", data=source @ np.array([[1.0, 0.5], [0.0, 1.0]]) + 0.1 * rng.standard_normal((500, 2)), source=source)
    settings = SMALL | {"teacher.like": "bridge"}
    matchlib.distill("gaussian", tmp_path / "pairs.npz", steps=4, out=tmp_path / "run", settings=settings)
    teacher = matchlib.load(tmp_path / "run", of="teacher")
    z = torch.tensor([[1.0, -1.0]]).repeat(200, 1)
    samples = teacher.sample(200, source=z)
    assert (samples.mean(0) - torch.tensor([1.0, -0.5])).abs().max() < 0.1


def test_gaussian_teacher_has_the_given_distribution(tmp_path: Path) -> None:
    distilled(tmp_path / "run", "moons", mean=0.3, std=0.5)
    teacher = matchlib.load(tmp_path / "run", of="teacher")
    x = teacher.sample_batch(4000).data
    assert (x.mean() - 0.3).abs() < 0.03
    assert (x.std() - 0.5).abs() < 0.03


def test_gaussian_has_the_given_shares() -> None:
    field = Gaussian(NetworkSpec((1,)), FLOW, mean=(-2.0, 2.0), std=(0.3, 0.3), weights=(1.0, 3.0))
    x = field.exact.distribution.sample(4000, torch.Generator().manual_seed(0)).data
    assert abs((x > 0).double().mean() - 0.75) < 0.03
    state = torch.tensor([[0.3]])
    assert field(state, torch.tensor([0.5]), Condition()).dtype == state.dtype


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": 1.0},
        {"mean": (1.0, 2.0), "std": 1.0},
        {"mean": 0.0, "std": -1.0},
        {"components": 0},
        {"components": "two"},
        {"components": 2, "mean": 0.0, "std": 1.0},
        {"mean": "low", "std": 1.0},
        {"weights": (1.0,)},
    ],
)
def test_gaussian_refuses_what_is_no_distribution(settings: dict) -> None:
    with pytest.raises(SettingError, match="gaussian"):
        Gaussian(NetworkSpec((2,)), FLOW, **settings)


def test_gaussian_refuses_what_cannot_be_exact() -> None:
    from dataclasses import replace

    with pytest.raises(IncompatibleError, match="MinibatchOT"):
        Gaussian(NetworkSpec((2,)), replace(FLOW, coupling=MinibatchOT()))
    with pytest.raises(IncompatibleError, match="labels must be classes"):
        Gaussian(NetworkSpec((2,), label_shape=(3,)), FLOW)
    with pytest.raises(IncompatibleError, match="at least 8 samples"):
        Gaussian(NetworkSpec((2,)), FLOW, components=4).fit(Batch(torch.randn(7, 2)))


@pytest.mark.parametrize("where", ["student.network", "teacher.network"])
def test_gaussian_is_no_student_and_no_critic(tmp_path: Path, where: str) -> None:
    with pytest.raises(IncompatibleError, match="no weights to train"):
        matchlib.distill("gaussian", "moons", steps=2, out=tmp_path / "run", settings={where: {"name": "gaussian"}})
    assert not (tmp_path / "run").exists()


def test_a_plugin_may_state_its_own_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    from matchlib.testing.law import LAWS, cases, check

    list(cases())
    law = LAWS["derivatives_are_derivatives"]
    assert check(law, "linear").passed
    monkeypatch.setattr(matchlib.interpolants["linear"], "tolerances", {law.name: -1.0}, raising=False)
    assert not check(law, "linear").passed
