"""What an evaluation says about the teacher that a user should know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["advice"]

KEY, LIMIT = "frechet", 1.3  # docs/research/correction.md has what a correction gained at which ratio
LOST = 20.0  # no sound teacher is so far away


def advice(report: Mapping[str, Any]) -> str | None:
    """Returns a line for a teacher much farther from the training data than held-out data are, whose student is too; else None.

    Args:
        report: as in ``evaluation.json``.
    """
    ratios = [report.get(kind, {}).get(KEY, 0.0) / report["held_out"].get(KEY, float("inf")) for kind in ("teacher", "student")]
    if min(ratios) <= LIMIT:
        return None
    far = (
        f"note: the Frechet distances of student and teacher from the training data are {ratios[1]:.1f} and {ratios[0]:.1f} times that of "
        "held-out data; "
    )
    if min(ratios) > LOST:
        return f"{far}its units or its convention may be wrong: examine it with matchlib doctor"
    return f"{far}train the teacher longer, or let real data correct it: --recipe correct, which needs more steps than the default loss"
