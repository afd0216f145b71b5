"""Which data a run is of: a digest in its folder, so that a resume notices other ones."""

from __future__ import annotations

from pathlib import Path

from matchlib.data.dataset import Dataset
from matchlib.errors import ArtifactError, DataError
from matchlib.io import read_json, write_json

__all__ = ["DATA", "record_data"]

DATA = "data.json"  # in a run's folder


def record_data(folder: Path, dataset: Dataset, *, changed: bool = False) -> None:
    """Notes in a run's folder which data it is of, or compares them with those that it began with.

    Args:
        changed: whether other data are accepted.

    Raises:
        DataError: they are others, and not accepted.
    """
    now = {"digest": dataset.digest(), "training samples": len(dataset), "units": [dataset.shift, dataset.scale]}
    try:
        before = read_json(folder / DATA)
    except ArtifactError:  # it begins, or is of an older version
        before = now
    same = before.get("digest") == now["digest"] and before.get("units", now["units"]) == now["units"]
    if not same and not changed:
        raise DataError(
            f"{dataset.name} has changed since {folder} began ({before.get('training samples')} training samples then, "
            f"{now['training samples']} now): restore it, start a new run, or go on all the same with --changed-data "
            "(in Python changed_data=True)"
        )
    if before is now or before != now:
        write_json(folder / DATA, now)
