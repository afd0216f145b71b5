"""Data sets as bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixtures.trainings import DATA

from matchlib.data.dataset import Dataset


def eight_bit(paired: bool = False) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(40, 3, 4, 4)).astype(np.uint8)
    return Dataset.from_arrays("bytes", x, source=rng.normal(size=x.shape) if paired else None, labels=np.arange(40) % 4)


@pytest.mark.parametrize("paired", [False, True])
def test_dataset_compact_keeps_data_of_few_numbers_as_bytes_and_draws_them_as_they_were(paired: bool) -> None:
    whole = eight_bit(paired)
    small = whole.compact(least=0)
    assert small.train.data.dtype == torch.uint8
    assert small.train.source is None or small.train.source.dtype == torch.float32  # noise: too many numbers
    for seed in range(3):
        one, other = (of.draw(16, torch.Generator().manual_seed(seed)) for of in (whole, small))
        for name in ("data", "source", "label"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or torch.equal(a, b)
    assert torch.equal(small.compact(least=0).take(slice(5)).data, whole.train.data[:5])
    assert small.shape == whole.shape


def test_dataset_compact_leaves_other_data_as_they_are() -> None:
    assert DATA.compact(least=0).train.data.dtype == torch.float32
    assert eight_bit().compact().train.data.dtype == torch.float32  # too small to be worth it
    broken = eight_bit()
    broken.train.data[3] = float("nan")
    assert broken.compact(least=0).train.data.dtype == torch.float32
