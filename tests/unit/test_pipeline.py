"""Finished runs: loading, sampling, labels, sources, shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import matchlib
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.errors import ArtifactError, SettingError


def test_load_gives_a_student_that_samples_the_same(finished: Path) -> None:
    one, two = matchlib.load(finished), matchlib.load(finished / "student")
    assert torch.equal(one.sample(7, seed=3), two.sample(7, seed=3))
    assert one.nfe == 1
    assert not torch.equal(one.sample(7, seed=3), one.sample(7, seed=4))


def test_run_folder_holds_no_pickle(finished: Path) -> None:
    allowed = {".safetensors", ".json", ".jsonl", ".yaml", ".png", ".html", ""}
    assert {path.suffix for path in finished.rglob("*") if path.is_file()} <= allowed


@pytest.mark.parametrize("labels", [10, -1, [1, 2], 0.5])
def test_pipeline_refuses_labels_out_of_range(finished: Path, labels: object) -> None:
    with pytest.raises(SettingError, match="integers from 0 to 9"):
        matchlib.load(finished).sample(3, labels=labels)


def test_pipeline_draws_sources_from_the_held_out_pairs_unless_they_are_given(tmp_path: Path) -> None:
    settings = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "teacher.training.steps": 2, "evaluation.draws": 1}
    made = matchlib.distill("bridge", data="digits-restore", steps=2, out=tmp_path / "run", settings=settings)
    data = load_dataset("digits-restore")
    sources = data.denormalize(data.held_out.source[:4])
    drawn = made.sample(4, seed=0, labels=data.held_out.label[:4])
    assert torch.allclose(made.sample(4, seed=0, labels=data.held_out.label[:4], source=sources), drawn, atol=1e-4)
    with pytest.raises(SettingError, match="source must have shape"):
        made.sample(4, source=sources[:3])


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 32, 32), (2, 3, 4, 5)])
def test_distill_takes_any_event_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
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


@pytest.mark.parametrize("of", ["student", "teacher"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_to_lets_the_network_compute_in_another_type(finished: Path, of: str, dtype: torch.dtype) -> None:
    pipeline = matchlib.load(finished, of)
    expected = pipeline.sample(50, seed=3)
    found = pipeline.to("cpu", dtype).sample(50, seed=3)
    assert found.dtype == torch.float32 and not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.1 * expected.std()
    assert any(weight.dtype == dtype for weight in pipeline.module.parameters())
    for wrong in (torch.float64, torch.int32):
        with pytest.raises(SettingError, match=r"float32, torch.bfloat16 or torch.float16, got"):
            pipeline.to(dtype=wrong)


def test_sample_takes_normal_noise_as_it_is(tmp_path: Path) -> None:
    """The source of a model that starts from noise has no units of the data; exports take the same."""
    data = Dataset.from_arrays("far", 100 + torch.randn(200, 2, generator=torch.Generator().manual_seed(0)))
    settings = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "teacher.training.steps": 2, "evaluation.draws": 1}
    matchlib.distill("flow", data, steps=2, out=tmp_path / "run", settings=settings)
    for of in ("student", "teacher"):
        pipeline = matchlib.load(tmp_path / "run", of, data=data)
        source = pipeline.sources(5, seed=3).source
        assert torch.equal(pipeline.sample(5, source=source), pipeline.sample(5, seed=3))


def test_load_refuses_a_folder_of_another_kind(finished: Path) -> None:
    for of, other in (("student", "teacher"), ("teacher", "student")):
        assert matchlib.load(finished / of, of).config.kind == of
        with pytest.raises(ArtifactError, match=f"holds a {of}, not a {other}"):
            matchlib.load(finished / of, other)


@pytest.mark.parametrize("n", [3, 2500])
def test_samples_of_given_sources_are_those_of_the_seed_that_they_are_of(n: int, tmp_path: Path) -> None:
    """Bit for bit, with noise on the way and in several chunks: that noise is not the given sources again."""
    settings = {"teacher.like": "diffusion-vp", "teacher.distribution": {"mean": 0.0, "std": 1.0}}
    settings |= {"teacher.sampler": {"name": "ancestral", "steps": 3}, "evaluation.draws": 1, "evaluation.metrics": ["frechet-raw"]}
    made = matchlib.train("gaussian", "moons", out=tmp_path / "run", settings=settings)
    given = made.sample_batch(n, seed=2, source=made.sources(n, seed=2).source).data
    assert torch.equal(given, made.sample_batch(n, seed=2).data)
    if n < 10:
        assert torch.equal(made.trajectory(made.sources(n, seed=2), seed=2)[-1], given)


def test_pipeline_with_a_sampler_of_its_own_keeps_it_with_other_steps_and_has_another_digest(finished: Path) -> None:
    teacher = matchlib.load(finished, of="teacher")
    other = matchlib.Pipeline(teacher.config, teacher.module, sampler=matchlib.samplers["ddim"](steps=10))
    assert other.with_steps(5).sampler == matchlib.samplers["ddim"](steps=5)
    assert len({pipeline.digest() for pipeline in (teacher, other, other.with_steps(5))}) == 3
