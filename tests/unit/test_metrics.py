"""Metrics: closed forms, extremes, and metrics of others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import matchlib
from matchlib.evaluation.reference import Reference
from matchlib.evaluation.score import scores


def reference(x: np.ndarray, n: int = 500) -> Reference:
    return Reference(x, x[:n], lambda y: y, n)


def test_frechet_raw_of_gaussians_is_its_closed_form() -> None:
    """|m1 - m2|^2 + |s1 - s2|^2 for commuting covariances."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((200_000, 2)) * [1.0, 2.0], rng.standard_normal((200_000, 2)) * [1.5, 1.0] + [1.0, 0.0]
    assert matchlib.metrics["frechet-raw"](reference(x), y) == pytest.approx(1.0 + 0.25 + 1.0, rel=0.02)


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


def test_nearest_ratio_and_copies_expose_memorised_samples() -> None:
    rng = np.random.default_rng(0)
    train, held = rng.standard_normal((2, 500, 5))
    data = Reference(train, held, lambda y: y, 500)
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


def test_precision_recall_density_coverage_at_their_extremes() -> None:
    x = np.random.default_rng(0).standard_normal((300, 3))
    for name in ("precision", "recall", "density", "coverage"):
        metric, data = matchlib.metrics[name], reference(x, 300)
        assert metric(data, x + 100) == 0.0
        assert metric(data, x + 1e-9) >= 0.99


def test_metrics_register_takes_a_plain_function() -> None:
    """Lower is better, and it always applies, unless the registration says otherwise."""
    x = np.random.default_rng(0).standard_normal((50, 2))
    try:

        @matchlib.metrics.register("mean-gap")
        def mean_gap(reference: Reference, samples: np.ndarray) -> float:
            return np.abs(samples.mean(0) - reference.train.mean(0)).max()

        @matchlib.metrics.register("share-above", better=1, applies=lambda reference: reference.size > 100)
        def share_above(reference: Reference, samples: np.ndarray) -> float:
            return (samples > 0).mean()

        assert matchlib.metrics["mean-gap"].better == -1
        assert matchlib.metrics.share_above.better == 1
        found = scores(reference(x, 50), torch.as_tensor(x + 1.0), ["mean-gap", "share-above"])
        assert found == pytest.approx({"mean_gap": 1.0})
        assert mean_gap(reference(x, 50), x) == 0.0  # a decorated function stays a function
    finally:
        for name in ("mean-gap", "share-above"):
            matchlib.metrics.unregister(name)


@pytest.mark.parametrize("name", ["frechet", "precision", "recall", "density", "coverage", "mmd", "nearest-ratio", "copies"])
def test_metrics_compute_their_part_of_the_reference_once(name: str) -> None:
    x, seen = np.random.default_rng(0).standard_normal((90, 2)), []

    def features(y: np.ndarray) -> np.ndarray:
        seen.append(len(y))
        return y

    data = Reference(x[:60], x[60:], features, 30)
    samples = np.random.default_rng(1).standard_normal((30, 2))
    first = matchlib.metrics[name](data, samples)
    count = len(seen)
    assert matchlib.metrics[name](data, samples) == first
    assert len(seen) - count <= 1, "features of the samples alone"
