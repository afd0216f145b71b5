"""Data sets: arrays of any type, their split, their units, and one line for what cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import matchlib
from matchlib.data.dataset import Dataset, random_rows, split
from matchlib.data.readers import load_dataset
from matchlib.distillation.defaults import principal_variances
from matchlib.errors import DataError
from matchlib.evaluation.reference import Reference

RNG = np.random.default_rng(0)


def test_split_is_fixed_disjoint_and_never_empty() -> None:
    for n in (4, 5, 1797):
        train, held = split(n)
        assert sorted([*train.tolist(), *held.tolist()]) == list(range(n))
        assert len(train) and len(held)
        assert torch.equal(split(n)[1], held)


# -- units ------------------------------------------------------------------------------------------------------------------


def test_denormalize_gives_the_data_back() -> None:
    x = np.random.default_rng(0).normal(5, 3, (100, 2))
    dataset = Dataset.from_arrays("x", x, held_out=np.arange(20))
    assert np.allclose(dataset.denormalize(dataset.held_out.data).numpy(), x[:20], atol=1e-5)


@pytest.mark.parametrize(
    ("shift", "scale"), [(0.0, 1.0), (1e7, 1.0), (-1e12, 5.0), (0.0, 1e300), (0.0, 1e-300), (1e10, 1e2)], ids=lambda x: f"{x:g}"
)
def test_from_arrays_keeps_numbers_wherever_they_lie(shift: float, scale: float) -> None:
    """Model units differ from those of the same draws around zero by less than float64 lost; they once became 8 different numbers."""
    x = RNG.standard_normal((400, 3))
    near, far = Dataset.from_arrays("near", x), Dataset.from_arrays("far", shift + scale * x)
    lost = 1e-5 + 4 * abs(shift) / scale * 2.0**-52
    assert torch.allclose(far.train.data, near.train.data, atol=lost)
    assert far.train.data.dtype == torch.float32
    assert far.held_out.data.unique().numel() > 0.9 * far.held_out.data.numel()
    restored = far.denormalize(far.train.data).double() / scale - shift / scale
    assert torch.allclose(restored, near.denormalize(near.train.data).double(), atol=10 * lost)
    again = far.normalized_as(shift, scale)
    assert torch.allclose(again.train.data, near.denormalize(near.train.data), atol=10 * lost)


def test_normalized_as_is_the_same_data_in_other_units() -> None:
    dataset = load_dataset("digits-restore")
    other = dataset.normalized_as(8.0, 8.0)
    for batch, again in ((dataset.train, other.train), (dataset.held_out, other.held_out)):
        assert torch.allclose(dataset.denormalize(batch.data), other.denormalize(again.data), atol=1e-4)
        assert torch.allclose(dataset.denormalize(batch.source), other.denormalize(again.source), atol=1e-4)
    assert other.normalized_as(dataset.shift, dataset.scale).train.data.sub(dataset.train.data).abs().max() < 1e-5
    assert dataset.normalized_as(dataset.shift, dataset.scale) is dataset


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int16, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (1, 4, 4)])
def test_from_arrays_takes_numbers_of_any_type_and_shape(kind: type, shape: tuple[int, ...]) -> None:
    x = (RNG.random((30, *shape)) * 100).astype(kind) if kind is not bool else RNG.random((30, *shape)) > 0.5
    for array in (x, torch.as_tensor(x)):
        dataset = Dataset.from_arrays("x", array)
        assert dataset.shape == shape
        assert dataset.train.data.dtype == torch.float32
        assert dataset.train.data.double().square().mean().item() == pytest.approx(1, abs=1e-4)


def test_summary_is_one_line_with_numbers_shape_range_and_classes() -> None:
    assert load_dataset("digits").summary() == (
        "digits: 1,437 training and 360 held-out samples of shape (1, 8, 8), values 0 to 16, 10 classes"
    )
    assert "no labels" in load_dataset("checkerboard").summary()


# -- labels -----------------------------------------------------------------------------------------------------------------


def test_balanced_draws_classes_equally_often() -> None:
    labels = np.array([0] * 80 + [1] * 15 + [2] * 5)
    dataset = Dataset.from_arrays("skewed", RNG.normal(size=(100, 2)), labels=labels)
    counts = dataset.balanced().train.label.bincount()
    assert counts.min() == counts.max()
    assert {tuple(x) for x in dataset.balanced().train.data.tolist()} == {tuple(x) for x in dataset.train.data.tolist()}
    with pytest.raises(DataError, match="no classes to balance"):
        dataset.without_labels().balanced()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(30, 999_999_999), "labels go up to 999999999 for 30 samples; number the classes from 0"),
        (np.arange(30) * 1000, "labels go up to 29000 for 30 samples"),
        (np.full(30, 2**63 + 5, np.uint64), "labels go up to 9223372036854775813"),
        (np.full(30, np.nan), "'labels' has NaN"),
        (np.ones((30, 2), int), "integers >= 0"),
        (np.array(3), "no array of labels"),
        (["a"] * 30, "integers >= 0"),
    ],
    ids=["billion", "gaps", "unsigned", "nan", "two axes", "one", "text"],
)
def test_from_arrays_refuses_labels_that_are_none(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset.from_arrays("x", RNG.random((30, 2)), labels=labels)


def test_from_arrays_takes_the_labels_of_a_thousand_classes_for_few_samples() -> None:
    assert Dataset.from_arrays("x", RNG.random((30, 2)), labels=np.arange(30) + 970).classes == 1000


@pytest.mark.parametrize("held_out", [[], np.arange(30), [30], [-1], [0.5], [[1]]], ids=str)
def test_from_arrays_refuses_held_out_indices_that_are_none(held_out: object) -> None:
    with pytest.raises(DataError, match="'held_out' must be indices from 0 to 29"):
        Dataset.from_arrays("x", RNG.random((30, 2)), held_out=held_out)


@pytest.mark.parametrize(
    "data", [[[1, 2], [3]], "text", np.full((9, 2), 0.1), np.full((9, 2), 1j)], ids=["ragged", "text", "constant", "complex"]
)
def test_from_arrays_refuses_what_is_no_data(data: object) -> None:
    with pytest.raises(DataError, match="x: 'data'"):
        Dataset.from_arrays("x", data)


# -- data as bytes ----------------------------------------------------------------------------------------------------------


def eight_bit(paired: bool = False) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(40, 3, 4, 4)).astype(np.uint8)
    return Dataset.from_arrays("bytes", x, source=rng.normal(size=x.shape) if paired else None, labels=np.arange(40) % 4)


@pytest.mark.parametrize("paired", [False, True])
def test_compact_keeps_few_numbers_as_bytes_and_draws_them_as_they_were(paired: bool) -> None:
    whole = eight_bit(paired)
    small = whole.compact(least=0)
    assert small.train.data.dtype == torch.uint8
    assert small.train.source is None or small.train.source.dtype == torch.float32  # noise: too many numbers
    for seed in range(3):
        one, other = (dataset.draw(16, torch.Generator().manual_seed(seed)) for dataset in (whole, small))
        for name in ("data", "source", "label"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or torch.equal(a, b)
    assert torch.equal(small.compact(least=0).take(slice(5)).data, whole.train.data[:5])
    assert small.shape == whole.shape


def test_compact_leaves_other_data_as_they_are() -> None:
    assert load_dataset("moons").compact(least=0).train.data.dtype == torch.float32
    assert eight_bit().compact().train.data.dtype == torch.float32  # too small to be worth it
    broken = eight_bit()
    broken.train.data[3] = float("nan")
    assert broken.compact(least=0).train.data.dtype == torch.float32


def test_summary_counts_held_out_samples_that_are_training_samples_as_well() -> None:
    """Copies of training samples are scored well where they are held out, too."""
    x = np.arange(40.0).reshape(20, 2)
    assert Dataset.from_arrays("x", x, held_out=np.array([0, 1])).repeated() == 0
    x[:2] = x[5:7]
    data = Dataset.from_arrays("x", x, held_out=np.array([0, 1, 2]))
    assert data.repeated() == 2
    assert data.summary().endswith("; 2 of the held-out samples are training samples as well, so scores flatter copies")
    assert Dataset.from_arrays("x", x, source=np.arange(40.0).reshape(20, 2) + 100, held_out=np.array([0, 1, 2])).repeated() == 0


def test_from_arrays_refuses_samples_that_are_all_the_same() -> None:
    with pytest.raises(DataError, match="all training samples are the same"):
        Dataset.from_arrays("x", np.tile(np.arange(6.0), (20, 1)))


def sorted_by_class() -> Dataset:
    """6,000 numbers of three classes, one class after the other, whose centres differ."""
    labels = np.repeat(np.arange(3), 2000)
    noise = np.random.default_rng(0).standard_normal((6000, 2, 1))
    return Dataset.from_arrays("sorted", 5.0 * labels[:, None, None] + noise, labels=labels)


def test_a_part_of_data_in_the_order_of_their_classes_has_all_of_them() -> None:
    data = sorted_by_class()
    some = data.some(300)
    assert some.label is not None
    assert torch.bincount(some.label).tolist() == pytest.approx([100] * 3, abs=35)
    assert torch.equal(some.data, data.some(300).data)
    assert torch.equal(data.some(10**6).data, data.train.data)
    assert torch.equal(random_rows(data.train.data, 300), some.data)


def test_scales_of_data_in_the_order_of_their_classes_are_those_of_all() -> None:
    """The widest axis goes through the centres of the classes; the first thousand are of one class and know nothing of it."""
    data = sorted_by_class()
    x = data.train.data.flatten(1).double()
    expected = float(torch.linalg.eigvalsh(torch.cov(x.T))[-1])
    assert float(principal_variances(data.train.data)[0]) == pytest.approx(expected, rel=0.1)


def test_the_held_out_data_that_metrics_use_are_of_all_classes() -> None:
    data = sorted_by_class()
    reference = Reference(data.train.data, data.held_out.data, subset=200)
    named = (reference.held_out.events[:200].flatten(1)[:, 0, None] - torch.tensor([-1.2, 0.0, 1.2])).abs().argmin(1)
    assert torch.bincount(named, minlength=3).min() > 40


def test_second_moments_of_pairs_are_those_of_the_same_samples() -> None:
    """Else source^2 - cross^2 / data, what the source knows besides the data, may come out negative."""
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(20_000, 1, generator=generator)
    made = Dataset.from_arrays("pairs", data, source=data + 0.05 * torch.randn(20_000, 1, generator=generator))
    found = made.moments(matchlib.couplings["paired"]())
    assert found.source - found.cross**2 / found.data == pytest.approx(0.0025, rel=0.1)
