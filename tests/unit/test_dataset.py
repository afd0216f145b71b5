"""Data sets: reading, splitting, units, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from matchlib.data.dataset import Dataset, split
from matchlib.data.readers import load_dataset
from matchlib.errors import DataError


def test_split_is_fixed_disjoint_and_never_empty() -> None:
    for n in (4, 5, 1797):
        train, held = split(n)
        assert sorted([*train.tolist(), *held.tolist()]) == list(range(n))
        assert len(train) and len(held)
        assert torch.equal(split(n)[1], held)


def test_load_dataset_reads_npz_and_folders(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "a.npz", data=rng.integers(0, 255, (20, 3, 4), dtype=np.uint8), labels=np.arange(20) % 4)
    assert load_dataset(str(tmp_path / "a.npz")).classes == 4
    for i in range(8):
        folder = tmp_path / "images" / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (6, 5, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    images = load_dataset(str(tmp_path / "images"))
    assert images.shape == (3, 6, 5)
    assert images.classes == 2


def test_denormalize_gives_data_units_back() -> None:
    x = np.random.default_rng(0).normal(5, 3, (100, 2))
    dataset = Dataset.from_arrays("x", x, held_out=np.arange(20))
    back = dataset.denormalize(dataset.held_out.data).numpy()
    assert np.allclose(back, x[:20], atol=1e-5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.full((9, 2), np.nan)}, "NaN"),
        ({"data": np.ones((9, 2))}, "constant"),
        ({"data": np.arange(9.0)}, "shape"),
        ({"data": np.random.rand(9, 2), "labels": -np.ones(9, int)}, "labels"),
        ({"data": np.random.rand(9, 2), "labels": np.ones(8, int)}, "8 labels"),
        ({"data": np.random.rand(9, 2), "source": np.random.rand(9, 3)}, "'source'"),
        ({"data": np.random.rand(3, 2)}, "n >= 4"),
        ({"data": np.array([["a", "b"]] * 9)}, "numbers"),
    ],
)
def test_load_dataset_refuses_unusable_arrays_by_name(tmp_path: Path, arrays: dict, message: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_dataset(str(tmp_path / "bad.npz"))


def test_load_dataset_refuses_pickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", data=np.array([{"a": 1}] * 9, dtype=object))
    with pytest.raises(DataError, match="plain arrays"):
        load_dataset(str(tmp_path / "bad.npz"))
