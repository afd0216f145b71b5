"""Samples to files, labels from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from matchlib.errors import SettingError
from matchlib.evaluation.pictures import draw_samples
from matchlib.io import write_atomically

__all__ = ["parse_labels", "write_samples"]


def parse_labels(text: str) -> list[int] | str:
    """Returns the integers of ``3`` or ``0,1,2``, or the word ``balanced``.

    Raises:
        SettingError: it is no list of integers.
    """
    if text == "balanced":
        return text
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingError(f"--labels must be one integer, integers with commas between, or balanced, got {text!r}") from None


def write_samples(path: Path, samples: np.ndarray, limits: tuple[float, float], labels: np.ndarray | None) -> None:
    """Writes samples ``(n, *event)`` as a picture or as plain arrays, atomically."""
    if path.suffix == ".png":
        draw_samples(path, {f"{len(samples)} samples": samples}, limits)
        return
    arrays = {"data": samples}
    if labels is not None:
        arrays["labels"] = labels
    write_atomically(path, lambda temporary: np.savez(temporary, **arrays))  # type: ignore[arg-type]
