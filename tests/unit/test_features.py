"""Features that samples are scored in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from matchlib.data.readers import load_dataset
from matchlib.evaluation.features import extractor


@pytest.mark.parametrize("labels", [True, False])
def test_extractor_lets_no_feature_outweigh_the_others(labels: bool, tmp_path: Path) -> None:
    """No digit lies dozens of deviations out in any feature, so a unit that hardly ever fires is not blown up."""
    digits = load_dataset("digits")
    x, y = digits.train.data.flatten(1).numpy(), digits.train.label.numpy()
    assert np.abs(extractor(x, y if labels else None, cache=tmp_path)(x)).max() < 10


def test_extractor_is_deterministic_and_cached(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    first = extractor(x, None, cache=tmp_path / "a")(x)
    assert np.array_equal(first, extractor(x, None, cache=tmp_path / "b")(x))
    assert np.array_equal(first, extractor(x, None, cache=tmp_path / "a")(x))
    assert len(list((tmp_path / "a").iterdir())) == 1
