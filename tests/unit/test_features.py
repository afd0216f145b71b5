"""The features of a data set's own: deterministic, cached, and never cached half-learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.evaluation.features import own_features
from matchlib.evaluation.reference import Reference
from matchlib.evaluation.work import Work
from matchlib.registry import metrics

CPU = torch.device("cpu")


def images(*, labels: bool) -> Dataset:
    """Four classes: a bright square in one of the corners."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = 0.1 * rng.standard_normal((400, 1, 8, 8))
    for i, label in enumerate(y):
        row, column = 4 * (label // 2), 4 * (label % 2)
        x[i, 0, row : row + 3, column : column + 3] += 1
    return Dataset.from_arrays("corners", x.astype(np.float32), labels=y if labels else None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.mark.parametrize("labels", [True, False])
def test_own_features_are_standardised_and_name_classes(cache: Path, labels: bool) -> None:
    data = images(labels=labels)
    own = own_features(data, CPU, cache=cache)
    features = own.features(data.train.data)
    assert features.dtype == torch.float64
    spread = features.std(0)
    assert ((spread - 1).abs().lt(1e-6) | spread.eq(0)).all(), "of standard deviation 1, or left out"
    assert features.mean(0).abs().max() < 1e-6
    named = own.classify(data.held_out.data)
    assert own.classes == (4 if labels else 10)
    if labels:
        assert (named == data.held_out.label).double().mean() > 0.95


def test_own_features_are_the_same_from_the_cache_and_anew(cache: Path, tmp_path: Path) -> None:
    data = images(labels=True)
    x = data.held_out.data
    first = own_features(data, CPU, cache=cache)
    with torch.no_grad():  # as a monitor calls it
        anew = own_features(data, CPU, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-20])  # damaged: made again
    again = own_features(data, CPU, cache=tmp_path)
    assert first.name == anew.name == again.name
    for other in (anew, again):
        assert torch.equal(first.features(x), other.features(x))


@pytest.mark.parametrize("shape", [(2,), (7,), (3, 2, 2), (5, 9)])
def test_own_features_are_there_for_events_of_any_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    data = Dataset.from_arrays("any", np.random.default_rng(0).standard_normal((60, *shape)))
    own = own_features(data, CPU, cache=tmp_path)
    assert torch.isfinite(own.features(data.held_out.data)).all()


def test_own_features_are_not_cached_when_interrupted(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def on_part(what: str, done: int, total: int) -> None:
        if done == 20:
            raise Stop

    with pytest.raises(Stop):
        own_features(images(labels=True), CPU, cache=tmp_path, work=Work(on_part))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [True, False])
def test_own_features_see_speckle_lost_classes_and_wrong_shares(cache: Path, labels: bool) -> None:
    """With labels and with clusters, each grade of a corruption is farther away than the one before, as classifiers say."""
    digits = load_dataset("digits")
    data = digits if labels else digits.without_labels()
    held, label = digits.held_out.data, digits.held_out.label
    assert label is not None
    reference = Reference(digits.train.data, held, own_features(data, CPU, cache=cache), subset=100)
    generator = torch.Generator().manual_seed(0)
    noise, places = torch.randn(held.shape, generator=generator), torch.rand(held.shape, generator=generator)

    def speckled(share: float) -> torch.Tensor:
        return torch.where(places < share, held.max() * (noise > 0), held)

    def without(classes: int) -> torch.Tensor:
        kept = held[label >= classes]
        return kept[torch.arange(len(held)) % len(kept)]

    for grades in ([speckled(share) for share in (0.0, 0.03, 0.1, 0.3)], [without(classes) for classes in (0, 2, 5, 9)]):
        distances = [metrics["frechet"](reference, samples) for samples in grades]
        assert distances == sorted(distances) and distances[-1] > 3 * distances[0], distances


def test_own_features_of_one_class_are_learned_from_clusters(tmp_path: Path) -> None:
    """A head of one class has nothing to learn: the weights would be those that they began with."""
    x = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    one = Dataset.from_arrays("one", x, labels=np.zeros(80, np.int64))
    assert own_features(one, torch.device("cpu"), cache=tmp_path).name.startswith("clusters-")
