"""The feature extractor: deterministic, cached, balanced, and never cached half-trained."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from matchlib.data.readers import load_dataset
from matchlib.evaluation.features import extractor


def _data() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)


@pytest.mark.parametrize("labels", [True, False])
def test_extractor_lets_no_feature_outweigh_the_others(labels: bool, tmp_path: Path) -> None:
    """No digit lies dozens of deviations out in any feature, so a unit that hardly ever fires is not blown up."""
    digits = load_dataset("digits")
    x, y = digits.train.data.flatten(1).numpy(), digits.train.label.numpy()
    assert np.abs(extractor(x, y if labels else None, cache=tmp_path)(x)).max() < 10


def test_extractor_is_deterministic_and_cached(tmp_path: Path) -> None:
    x = _data()
    first = extractor(x, None, cache=tmp_path / "a")(x)
    assert np.array_equal(first, extractor(x, None, cache=tmp_path / "b")(x))
    assert np.array_equal(first, extractor(x, None, cache=tmp_path / "a")(x))
    (file,) = (tmp_path / "a").iterdir()
    file.write_bytes(b"damaged")
    assert np.array_equal(first, extractor(x, None, cache=tmp_path / "a")(x))


@pytest.mark.parametrize("labels", [None, np.arange(60) % 3])
def test_extractor_caches_nothing_when_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: np.ndarray | None) -> None:
    """Ctrl-C while the network trains reaches the caller, though scikit-learn swallows it; the next call trains to the end."""
    x = _data()
    expected = extractor(x, labels, cache=tmp_path / "sound")(x)
    fit = MLPClassifier.fit

    def interrupted(self: MLPClassifier, *arguments: object) -> MLPClassifier:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        self.set_params(max_iter=100_000, n_iter_no_change=100_000)
        return fit(self, *arguments)

    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(MLPClassifier, "fit", interrupted)
        extractor(x, labels, cache=tmp_path / "cache")
    signal.signal(signal.SIGALRM, before)
    assert not (tmp_path / "cache").exists()
    assert np.array_equal(extractor(x, labels, cache=tmp_path / "cache")(x), expected)
