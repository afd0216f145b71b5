"""Data in pairs, classes and other units: how they are read, balanced, answered and scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import matchlib
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.evaluation.score import pair_scores
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.sampler import SampledField

pytestmark = pytest.mark.runs

RNG = np.random.default_rng(0)


def _gaussian_pairs(noise: float = 0.5, n: int = 4000) -> Dataset:
    """data ~ N(0, I), source = data + noise: the posterior is N(source/(1 + noise^2), noise^2/(1 + noise^2))."""
    data = RNG.normal(size=(n, 6))
    return Dataset.from_arrays("pairs", data, source=data + noise * RNG.normal(size=data.shape))


def test_draws_of_the_exact_posterior_have_spread_and_consistency_one() -> None:
    """And a square error twice the posterior's variance; the posterior's mean has half of it, and no spread."""
    noise = 0.5
    dataset = _gaussian_pairs(noise)
    held = dataset.held_out
    rounds = 20
    gain, variance = 1 / (1 + noise**2), noise**2 / (1 + noise**2)
    mean = (gain * (held.source * dataset.scale + dataset.shift) - dataset.shift) / dataset.scale
    answers = mean.repeat(rounds, 1)
    latent = torch.randn(answers.shape, generator=torch.Generator().manual_seed(0))
    found = pair_scores(dataset, answers + variance**0.5 / dataset.scale * latent)
    assert found["spread"] == pytest.approx(1, abs=0.05)
    assert found["consistency"] == pytest.approx(1, abs=0.05)
    assert found["rmse"] == pytest.approx((2 * variance) ** 0.5, rel=0.05)
    blurred = pair_scores(dataset, answers)
    assert blurred["spread"] == pytest.approx(0, abs=1e-9)
    assert blurred["rmse"] == pytest.approx(variance**0.5, rel=0.05)
    assert "spread" not in pair_scores(dataset, mean)


def test_a_decibel_is_a_decibel() -> None:
    """Errors of a tenth of the range are 20 dB, whatever the units; a wrong answer is not consistent with its source."""
    dataset = _gaussian_pairs()
    span = (dataset.limits[1] - dataset.limits[0]) / dataset.scale
    truth = dataset.held_out.data
    found = pair_scores(dataset, truth + 0.1 * span)
    assert found["psnr"] == pytest.approx(20, abs=1e-4)
    assert found["consistency"] > 1.5
    assert pair_scores(dataset, truth)["consistency"] == pytest.approx(1)
    assert pair_scores(dataset, truth[:7] + 0.1 * span)["psnr"] == pytest.approx(20, abs=1e-4)  # of the first sources
    assert pair_scores(dataset.normalized_as(3.0, 7.0), dataset.normalized_as(3.0, 7.0).held_out.data + 0.1 * span * dataset.scale / 7)[
        "psnr"
    ] == pytest.approx(20, abs=1e-4)


UNPAIRED = ["--data", "digits-restore", "--set", "teacher.coupling.name=minibatch-ot-data", "--set", "teacher.sees_source=false"]
NOISY = ["--set", "teacher.interpolant.name=noisy-linear"]
KINDS = {
    "bridge, unpaired": ["--teacher", "bridge", *UNPAIRED],
    "interpolant, two-sided": ["--teacher", "interpolant", *UNPAIRED, *NOISY, "--set", "teacher.objective.name=joint"],
    "interpolant, one head of two": [
        *("--teacher", "interpolant", *UNPAIRED, *NOISY, "--set", "teacher.objective={name: joint, parts: [data, noise]}"),
        *("--loss", "uid", "--set", "loss.space=data"),
    ],
    "interpolant, paired": ["--teacher", "interpolant", "--data", "digits-restore"],
    "mirror": [
        *("--teacher", "interpolant", "--set", "teacher.coupling.name=mirror", "--set", "teacher.times.t_max=0.98"),
        *("--set", "teacher.sampler={name: ddim, steps: 4}", "--set", "student.t_start=0.5"),
    ],
    "transport of noise": ["--teacher", "flow", "--set", "teacher.coupling.name=minibatch-ot"],
}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("student", ["onestep", "fewstep"])
def test_data_to_data_models_are_distilled(kind: str, student: str, tmp_path: Path, cli: Callable, small: list[str]) -> None:
    code, _, err = cli("distill", *KINDS[kind], "--student", student, "--out", tmp_path / "run", *small)
    assert (code, err) == (0, "")
    assert matchlib.load(tmp_path / "run").sample(1).shape == (1, 1, 8, 8)


def test_a_general_source_needs_a_second_head_and_the_error_says_which(cli: Callable, tmp_path: Path) -> None:
    code, _, err = cli("distill", "--teacher", "interpolant", *UNPAIRED, "--out", tmp_path / "run")
    assert code == 2
    assert "a further prediction would be enough: epsilon or noise" in err
    assert not (tmp_path / "run").exists()


def test_answers_depend_on_their_source_and_on_their_own_latent(tmp_path: Path, cli: Callable, small: list[str]) -> None:
    assert cli("distill", "--teacher", "bridge", "--data", "digits-restore", "--out", tmp_path / "run", *small)[0] == 0
    student = matchlib.load(tmp_path / "run")
    source = load_dataset("digits-restore").denormalize(load_dataset("digits-restore").held_out.source[:2])
    first, second = (student.sample(2, seed=seed, source=source, labels=3) for seed in (0, 1))
    swapped = student.sample(2, seed=0, source=source.flip(0), labels=3)
    assert not torch.allclose(first, second)
    assert not torch.allclose(first, swapped)


def test_a_report_has_distances_of_classes_and_of_pairs(tmp_path: Path) -> None:
    settings = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "evaluation.draws": 2, "evaluation.metrics": ("frechet-raw",)}
    matchlib.train("bridge", "digits-restore", steps=2, out=tmp_path / "run", settings=settings)
    report = matchlib.io.read_json(tmp_path / "run" / "evaluation.json")
    assert len(report["teacher"]["frechet_by_class"]) == len(report["held_out"]["frechet_by_class"]) == 10
    assert {"psnr", "rmse", "consistency", "spread"} <= set(report["teacher"])
    assert (tmp_path / "run" / "samples.png").stat().st_size > 0


@pytest.mark.parametrize("family", ["bridge", "interpolant"])
def test_conditional_teachers_draw_from_the_exact_posterior(family: str) -> None:
    """From one source, the family's own sampler with the exact field has the mean and the spread of the data given that source."""
    plugin = matchlib.families[family]()
    model, sampler = plugin.model(paired=True), plugin.defaults(paired=True).sampler
    mean, std, rho, n = 0.0, 1.0, 0.7, 4000  # in model units
    law = Mixture.normal(mean, std, correlation=rho)
    source = torch.full((n, 1), 1.3, dtype=torch.float64)
    of = SampledField(GaussianField(model, law), model, law.moments())
    x = sampler.sample(of, source, None, generator=torch.Generator().manual_seed(0)).data
    posterior = std * (1 - rho**2) ** 0.5
    assert x.mean().item() == pytest.approx(mean + rho * std * 1.3, abs=5 * posterior / n**0.5 + 0.02)
    assert x.std().item() == pytest.approx(posterior, rel=0.08)
