"""Samples to files, labels from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from matchlib.errors import DivergedError, SettingError
from matchlib.evaluation.pictures import draw_samples
from matchlib.io import write_atomically

__all__ = ["check_finite", "parse_labels", "write_samples"]

DIGITS = 18  # a label has fewer
SHOWN = 400  # images in a picture, at most


def parse_labels(text: str) -> list[int] | str:
    """Returns the integers of ``3`` or ``0,1,2``, or the word ``balanced``.

    Raises:
        SettingError: it is no list of integers.
    """
    if text == "balanced":
        return text
    parts = [part.strip() for part in text.split(",")]
    if not all(part.removeprefix("-").isascii() and part.removeprefix("-").isdigit() and len(part) < DIGITS for part in parts):
        raise SettingError(f"--labels must be one integer, integers with commas between, or balanced, got {text[:100]!r}")
    return [int(part) for part in parts]


def check_finite(samples: np.ndarray, kind: str) -> None:
    """Refuses samples that are no numbers, which nobody could use.

    Raises:
        DivergedError: some are NaN or infinite.
    """
    bad = int((~np.isfinite(samples)).reshape(len(samples), -1).any(1).sum())
    if bad:
        raise DivergedError(
            f"{bad} of {len(samples)} samples of the {kind} are NaN or infinite, so nothing is written: its training diverged"
        )


def write_samples(path: Path, samples: np.ndarray, limits: tuple[float, float], labels: np.ndarray | None) -> None:
    """Writes samples ``(n, *event)`` as a picture or as plain arrays, atomically."""
    if path.suffix == ".png":
        whole = len(samples) <= SHOWN or samples[0].size <= 2  # points and histograms show all that there are
        name = f"{len(samples)} samples" if whole else f"{SHOWN} of {len(samples)} samples"
        draw_samples(path, {name: samples}, limits, SHOWN)
        return
    arrays = {"data": samples}
    if labels is not None:
        arrays["labels"] = labels
    write_atomically(path, lambda temporary: np.savez(temporary, **arrays))  # type: ignore[arg-type]
