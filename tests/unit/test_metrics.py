"""Metrics: closed forms, extremes, and metrics of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ot
import pytest
import torch

import matchlib
from matchlib.evaluation.reference import Extractor, PointSet, Reference
from matchlib.evaluation.score import scores
from matchlib.plugins.metrics.frechet import frechet_error


def reference(x: np.ndarray, n: int = 500) -> Reference:
    return Reference(torch.as_tensor(x), torch.as_tensor(x[:n]), size=n)


def test_frechet_raw_of_gaussians_is_its_closed_form() -> None:
    """|m1 - m2|^2 + |s1 - s2|^2 for commuting covariances."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200_000, 2)) * [1.0, 2.0], rng.standard_normal((200_000, 2)) * [1.5, 1.0] + [1.0, 0.0]
    assert matchlib.metrics["frechet-raw"](reference(x), y) == pytest.approx(1.0 + 0.25 + 1.0, rel=0.02)


def test_frechet_raw_of_few_points_is_that_of_their_covariances() -> None:
    """Fewer points than dimensions, on either side: the same number as by 40 x 40 covariances."""
    rng = np.random.default_rng(0)
    x, y, z = rng.standard_normal((200, 40)), rng.standard_normal((30, 40)) * 1.3 + 0.2, rng.standard_normal((12, 40))
    for train, samples in ((x, y), (y, x), (y, z)):
        covariances = [np.cov(points, rowvar=False) for points in (train, samples)]
        values, vectors = np.linalg.eigh(covariances[0])
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
        gap = np.square(train.mean(0) - samples.mean(0)).sum()
        expected = gap + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * cross
        assert matchlib.metrics["frechet-raw"](reference(train, len(samples)), samples) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("law", ["normal", "skewed"])
def test_standard_error_of_frechet_is_its_deviation_over_draws(law: str) -> None:
    """Of 300 pairs of sets; the deviation itself is known to 1/sqrt(2 * 300) = 4%."""
    values, errors = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        draw = rng.standard_normal if law == "normal" else (lambda size, rng=rng: rng.exponential(size=size))
        of = Reference(torch.as_tensor(draw((800, 3))), torch.zeros(2, 3, dtype=torch.float64))
        samples = of.points(draw((400, 3)) * np.array([1.5, 1.0, 0.5]) + 0.3)
        values.append(matchlib.metrics["frechet"](of, samples))
        errors.append(frechet_error(of, samples))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_w2_of_a_shift_is_the_shift() -> None:
    x = np.random.default_rng(0).standard_normal((500, 2))
    assert matchlib.metrics["w2"](reference(x), x + np.array([3.0, 4.0])) == pytest.approx(5.0)


def test_mmd_is_unbiased() -> None:
    """Its mean over many pairs of samples of one law is zero, within 5 standard errors; the biased estimator's would not be."""
    values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        data = reference(rng.standard_normal((40, 2)), 40)
        values.append(matchlib.metrics["mmd"](data, rng.standard_normal((40, 2))))
    assert abs(np.mean(values)) < 5 * np.std(values) / len(values) ** 0.5


def test_mmd_takes_a_large_subset() -> None:
    """Six thousand points have more than 2^24 distances, which ``torch.quantile`` refuses."""
    x = np.random.default_rng(0).standard_normal((6000, 1))
    assert abs(matchlib.metrics["mmd"](Reference(torch.as_tensor(x), torch.as_tensor(x), subset=6000), x)) < 1e-3


def test_scores_of_data_that_take_few_values_are_those_of_held_out_data() -> None:
    """Most distances are zero then: nothing may be divided by their median."""
    rng = np.random.default_rng(0)
    draw = lambda n: torch.as_tensor(rng.integers(0, 2, (n, 1)).astype(float))  # noqa: E731
    data = Reference(draw(1000), draw(500))
    samples = data.points(draw(500))
    assert matchlib.metrics["nearest-ratio"](data, samples) == 1.0
    assert matchlib.metrics["copies"](data, samples) == pytest.approx(0.05)
    assert abs(matchlib.metrics["mmd"](data, samples)) < 0.02


def test_nearest_ratio_and_copies_expose_memorised_samples() -> None:
    rng = np.random.default_rng(0)
    train, held = rng.standard_normal((2, 500, 5))
    data = Reference(torch.as_tensor(train), torch.as_tensor(held))
    fresh = rng.standard_normal((500, 5))
    third = np.concatenate([train[:167], fresh[:333]])  # which the median of distances does not see
    for name, samples, expected in (
        ("nearest-ratio", train, 0.0),
        ("nearest-ratio", fresh, 1.0),
        ("copies", train, 1.0),
        ("copies", fresh, 0.05),
        ("copies", third, 1 / 3 + 2 / 3 * 0.05),
    ):
        assert matchlib.metrics[name](data, samples) == pytest.approx(expected, abs=0.1 if name == "nearest-ratio" else 0.05), name


def test_balls_reach_to_other_places_where_rare_points_are_repeated() -> None:
    """Twenty points of a rare class, as often as a thousand others: fresh samples of both are as good as they can be."""
    rng = np.random.default_rng(0)
    common, rare = rng.standard_normal((1000, 3)), rng.standard_normal((20, 3)) + 9
    data = reference(np.concatenate([common, np.tile(rare, (50, 1))]), 800)
    samples = np.concatenate([rng.standard_normal((400, 3)), rng.standard_normal((400, 3)) + 9])
    found = scores(data, torch.as_tensor(samples), ("precision", "coverage", "density", "recall"))
    assert min(found["precision"], found["coverage"], found["recall"]) > 0.9
    assert found["density"] == pytest.approx(1.0, abs=0.6)


def test_precision_recall_density_coverage_at_their_extremes() -> None:
    x = np.random.default_rng(0).standard_normal((300, 3))
    for name in ("precision", "recall", "density", "coverage"):
        metric, data = matchlib.metrics[name], reference(x, 300)
        assert metric(data, x + 100) == 0.0
        assert metric(data, x + 1e-9) >= 0.99


class Looking(Extractor):
    """The values as features, and signs as classes; it counts how many events it has looked at."""

    name, classes = "counted", 2

    def __init__(self) -> None:
        self.seen = 0

    def features(self, events: torch.Tensor) -> torch.Tensor:
        self.seen += len(events)
        return events.flatten(1)

    def classify(self, events: torch.Tensor) -> torch.Tensor:
        return (events.flatten(1)[:, 0] > 0).long()


def test_the_references_part_is_computed_once(tmp_path: Path) -> None:
    """A second reference of the same data reads it from files, looks at no training event, and gives the same scores."""
    train, held, samples = torch.randn(3, 300, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain = scores(Reference(train, held, Looking(), subset=100), samples)
    made = []
    for _ in range(2):
        extractor = Looking()
        found = scores(Reference(train, held, extractor, subset=100, cache=tmp_path), samples)
        assert found == plain
        made.append(extractor.seen)
    others = 300 + 100 + 100  # samples, those of them that neighbours take, and as many real points
    assert made == [300 + others, others]


def test_a_damaged_part_of_the_reference_is_computed_anew(tmp_path: Path) -> None:
    train, held, samples = torch.randn(3, 100, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = scores(Reference(train, held, Looking(), cache=tmp_path), samples)
    files = list(tmp_path.rglob("*.safetensors"))
    for path in files:
        path.write_bytes(path.read_bytes()[:-3])
    assert files
    assert scores(Reference(train, held, Looking(), cache=tmp_path), samples) == first


def test_metrics_register_takes_a_plain_function() -> None:
    """Lower is better, and it always applies, unless the registration says otherwise."""
    x = np.random.default_rng(0).standard_normal((50, 2))
    try:

        @matchlib.metrics.register("mean-gap")
        def mean_gap(reference: Reference, samples: PointSet) -> float:
            return float((samples.values.mean(0) - reference.train.values.mean(0)).abs().max())

        @matchlib.metrics.register("share-above", better=1, applies=lambda reference: reference.size > 100)
        def share_above(reference: Reference, samples: PointSet) -> float:
            return float((samples.values > 0).double().mean())

        assert matchlib.metrics["mean-gap"].better == -1
        assert matchlib.metrics.share_above.better == 1
        found = scores(reference(x, 50), torch.as_tensor(x + 1.0), ["mean-gap", "share-above"])
        assert found == pytest.approx({"mean_gap": 1.0})
        given = reference(x, 50)
        assert mean_gap(given, given.points(x)) == 0.0  # a decorated function stays a function
    finally:
        for name in ("mean-gap", "share-above"):
            matchlib.metrics.unregister(name)


class Counted(Extractor):
    """Features that are the events; counts what it is asked for."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def features(self, events: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(events))
        return events


@pytest.mark.parametrize("names", [["frechet", "precision", "recall", "density", "coverage", "kid"]])
def test_metrics_compute_features_of_every_set_once(names: list[str]) -> None:
    x, counted = torch.randn(120, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), Counted()
    data = Reference(x[:60], x[60:90], counted, 30)
    for i in range(3):
        samples = data.points(x[90:])
        for name in names:
            matchlib.metrics[name](data, samples)
        assert sum(counted.seen) == 60 + 30 + 30 * (i + 1), "training split, real points, and samples"


def test_quadratic_metrics_use_the_subset_and_others_all_samples() -> None:
    x = torch.randn(900, 3, generator=torch.Generator().manual_seed(0))
    data = Reference(x[:400], x[400:700], size=200, subset=50)
    samples, changed = x[700:900], x[700:900].clone()
    changed[50:] += 10
    for name in ("precision", "recall", "density", "coverage", "mmd", "kid", "w2", "nearest-ratio", "copies"):
        assert matchlib.metrics[name](data, samples) == matchlib.metrics[name](data, changed), name
    for name in ("frechet", "frechet-raw", "sliced-wasserstein"):
        assert matchlib.metrics[name](data, changed) > matchlib.metrics[name](data, samples) + 1, name


def test_sliced_wasserstein_is_that_of_pot() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((300, 7)), rng.standard_normal((170, 7)) + 0.3
    expected = ot.sliced_wasserstein_distance(y, x, n_projections=256, seed=0)
    assert matchlib.metrics["sliced-wasserstein"](reference(x), y) == pytest.approx(expected, rel=1e-9)


def test_neighbour_metrics_are_those_of_whole_tables() -> None:
    """In chunks or not, and from products or differences: the same distances. Points beside each other are told apart."""
    g = torch.Generator().manual_seed(0)
    train = 100 + torch.randn(9000, 20, generator=g)
    samples = torch.cat([train[:300] + 1e-4 * torch.randn(300, 20, generator=g), 100 + torch.randn(300, 20, generator=g)])
    data = Reference(train, 100 + torch.randn(600, 20, generator=g))
    table = torch.cdist(samples.double(), train.double(), compute_mode="donot_use_mm_for_euclid_dist").min(1).values
    unseen = torch.cdist(data.held_out.values.double(), train.double()).min(1).values
    assert matchlib.metrics["nearest-ratio"](data, samples.double()) == pytest.approx(matchlib.metrics["nearest-ratio"](data, samples))
    assert matchlib.metrics["nearest-ratio"](data, samples) == pytest.approx(float(table.quantile(0.5) / unseen.quantile(0.5)), rel=1e-6)
    assert matchlib.metrics["copies"](data, samples) == pytest.approx(float((table <= unseen.quantile(0.05)).double().mean()))


class Thirds(Extractor):
    classes = 3

    def classify(self, events: torch.Tensor) -> torch.Tensor:
        return events[:, 0].long()


def test_class_metrics_of_shares() -> None:
    """Shares (.5, .5, 0) against (.5, .25, .25): total variation .25, effective classes 2 of 2^1.5, one class missing."""
    data = Reference(torch.tensor([[0.0], [0], [1], [2]]), torch.tensor([[0.0], [1]]), Thirds(), 4)
    samples = torch.tensor([[0.0], [0], [1], [1]])
    assert matchlib.metrics["class-shares"](data, samples) == pytest.approx(0.25)
    assert matchlib.metrics["class-entropy"](data, samples) == pytest.approx(2 / 2**1.5)
    assert matchlib.metrics["classes-missing"](data, samples) == 1.0
    assert not matchlib.metrics["class-shares"].applies(Reference(samples, samples))


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float64])
def test_metrics_of_whole_numbers_are_those_of_the_same_floats(kind: torch.dtype) -> None:
    """Of samples that need gradients as well."""
    x, y, samples = (torch.randint(0, 9, (80, 3), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1, 2))
    names = ["sliced-wasserstein", "nearest-ratio"]
    found = scores(Reference(x.to(kind), y.to(kind), size=80), samples.to(kind), names)
    wanted = scores(Reference(x.float(), y.float(), size=80), samples.float().requires_grad_(), names)
    assert found == pytest.approx(wanted, rel=1e-5)
