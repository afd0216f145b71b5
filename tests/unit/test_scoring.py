"""Scores of samples from anywhere, features from a file, and several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.errors import ArtifactError, DataError, IncompatibleError, SettingError
from matchlib.evaluation.score import _key
from matchlib.runs.scoring import compare, score

pytestmark = pytest.mark.runs
METRICS = ("frechet", "frechet-raw", "precision")


def arrays(path: Path, noise: float) -> Path:
    """Held-out digits with some noise, in data units."""
    digits = load_dataset("digits")
    data = digits.denormalize(digits.held_out.data).numpy()
    np.savez(path, data=data + noise * np.random.default_rng(0).standard_normal(data.shape).astype(np.float32))
    return path


class Means(nn.Module):
    """Features of 8-bit images: the means of four rows of the first channel."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, 0].double().mean(2)[:, ::2]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "means.pt"
    torch.jit.trace(Means(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).save(path)
    return path


def test_score_of_held_out_data_is_that_of_held_out_data(tmp_path: Path) -> None:
    found = score(arrays(tmp_path / "a.npz", 0.0), "digits", metrics=METRICS)
    assert found["samples"] == 360
    for name in ("frechet", "frechet_raw"):
        assert found["given"][name] == pytest.approx(found["held_out"][name], rel=1e-4)
    worse = score(arrays(tmp_path / "b.npz", 4.0), "digits", metrics=METRICS)
    assert worse["given"]["frechet_raw"] > 2 * found["given"]["frechet_raw"]


def test_score_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=np.random.default_rng(0).standard_normal((20, 1, 4, 4)))
    with pytest.raises(IncompatibleError, match=r"shape \(1, 4, 4\), but digits has \(1, 8, 8\)"):
        score(tmp_path / "a.npz", "digits")
    with pytest.raises(DataError, match="of which there are 360"):
        score(arrays(tmp_path / "b.npz", 0.0), "digits", n=361)


def test_score_takes_features_from_a_file(tmp_path: Path, network: Path) -> None:
    """The Frechet distance of two sets of 4 features is that of numpy's means and covariances."""
    digits = load_dataset("digits")
    found = score(arrays(tmp_path / "a.npz", 0.0), "digits", metrics=["frechet"], extractor=str(network))
    assert found["features"].startswith("means.pt-")

    def features(x: Tensor) -> np.ndarray:
        low, high = digits.model_limits
        return ((x - low) / (high - low) * 255).round()[:, 0].double().mean(2)[:, ::2].numpy()

    x, y = features(digits.held_out.data), features(digits.train.data)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    cross = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0)).sum()  # the same trace, without a root of a matrix
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a) + np.trace(b) - 2 * cross
    assert found["held_out"]["frechet"] == pytest.approx(expected, rel=1e-6)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Images as published sample sets hold them, and moments of the four features of others."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "samples.npz", arr_0=rng.integers(0, 250, (50, 8, 8, 3), dtype=np.uint8))
    others = rng.normal(120, 5, (200, 4))
    np.savez(tmp_path / "moments.npz", mu=others.mean(0), sigma=np.cov(others, rowvar=False))
    return tmp_path


def test_score_against_published_moments_is_their_distance(published: Path, network: Path) -> None:
    """Bytes go in as they are, although none of them is 255."""
    found = score(published / "samples.npz", published / "moments.npz", extractor=str(network))
    images = np.load(published / "samples.npz")["arr_0"]
    x, reference = images[..., 0].astype(float).mean(2)[:, ::2], np.load(published / "moments.npz")
    a, b = np.cov(x, rowvar=False), reference["sigma"]
    cross = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0)).sum()
    expected = np.square(x.mean(0) - reference["mu"]).sum() + np.trace(a) + np.trace(b) - 2 * cross
    assert found["given"]["frechet"] == pytest.approx(expected, rel=1e-6)
    assert (found["samples"], found["takes"]) == (50, "8-bit images of 8x8, 3 channels")
    assert found["data"].startswith("moments.npz-")


def test_score_against_moments_refuses_what_does_not_fit(published: Path, network: Path) -> None:
    moments = published / "moments.npz"
    with pytest.raises(SettingError, match=r"--extractor FILE\.pt"):
        score(published / "samples.npz", moments)
    with pytest.raises(IncompatibleError, match="8-bit"):
        score(arrays(published / "floats.npz", 0.0), moments, extractor=str(network))
    with pytest.raises(DataError, match="51 samples were asked for, of which there are 50"):
        score(published / "samples.npz", moments, extractor=str(network), n=51)
    np.savez(moments, mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(IncompatibleError, match=r"makes 4 features, but .* of 3"):
        score(published / "samples.npz", moments, extractor=str(network))
    np.savez(moments, mu=np.zeros(3), sigma=np.eye(2))
    with pytest.raises(DataError, match=r"of shapes \(k,\) and \(k, k\)"):
        score(published / "samples.npz", moments, extractor=str(network))


@pytest.mark.parametrize("content", [b"", b"no network"])
def test_score_refuses_a_file_that_is_no_network(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(ArtifactError, match="TorchScript"):
        score(arrays(tmp_path / "a.npz", 0.0), "digits", extractor=str(tmp_path / "bad.pt"))


def run_of(folder: Path, **changes: object) -> Path:
    row = {"frechet": 1.0, "nfe": 1}
    report = {"data": "digits", "reference": "train", "samples": 360, "draws": 10, "subset": 360, "clip_samples": False, "features": "x"}
    folder.mkdir()
    (folder / "evaluation.json").write_text(json.dumps({**report, "student": row, "teacher": row, "held_out": row, **changes}))
    return folder


def test_compare_puts_runs_side_by_side(tmp_path: Path, cli: Callable) -> None:
    a, b, c = run_of(tmp_path / "a"), run_of(tmp_path / "b"), run_of(tmp_path / "c", samples=100)
    assert list(compare([a, b])) == [f"{a} student", f"{a} teacher", f"{b} student", f"{b} teacher", "held-out"]
    with pytest.raises(IncompatibleError, match="samples is 360 and 100"):
        compare([a, b, c])
    code, out, err = cli("compare", a, b)
    assert (code, err) == (0, "")
    assert out.count("student") == 2
    code, _, err = cli("compare", a, c)
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_score_command_prints_a_table(tmp_path: Path, cli: Callable, network: Path) -> None:
    code, out, err = cli("score", arrays(tmp_path / "a.npz", 0.0), "digits", "--extractor", network)
    assert (code, err) == (0, "")
    assert "samples" in out
    assert "held-out" in out
    code, _, err = cli("score", tmp_path / "missing.npz", "digits")
    assert code == 2
    assert "missing.npz" in err


def test_references_of_equal_numbers_in_other_units_are_two(tmp_path: Path, network: Path) -> None:
    """A network in a file sees images of 8 bits, and what these are depends on the least and the largest number of the data."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(50, 200, (300, 1, 8, 8))
    found = []
    for kind in (np.uint8, np.float32):
        data = Dataset.from_arrays(kind.__name__, numbers.astype(kind))
        found.append(_key(data.normalized_as(0.0, 1.0), "same network"))
    assert found[0] != found[1]
