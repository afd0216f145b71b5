"""Which data a run is of: a digest in its folder, so that a resume notices other ones."""

from __future__ import annotations

import hashlib
from pathlib import Path

from torch import Tensor

from matchlib.data.dataset import Dataset
from matchlib.errors import ArtifactError, DataError
from matchlib.io import read_json, write_json

__all__ = ["DATA", "data_digest", "record_data"]

DATA = "data.json"  # in a run's folder


def data_digest(text: bytes, *tensors: Tensor | None) -> str:
    """Returns a digest of a text and of tensors."""
    digest = hashlib.sha256(text)
    for tensor in tensors:
        if tensor is not None and tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:20]


def record_data(folder: Path, dataset: Dataset, *, changed: bool = False) -> None:
    """Notes in a run's folder which data it is of, or compares them with those that it began with.

    Args:
        changed: whether other data are accepted.

    Raises:
        DataError: they are others, and not accepted.
    """
    kept = "" if dataset.stored is None else dataset.stored.digest
    parts = [x for part in (dataset.train, dataset.held_out) for x in (part.data, part.source, part.label)]
    now = {"digest": data_digest(kept.encode(), *parts), "training samples": len(dataset)}
    try:
        before = read_json(folder / DATA)
    except ArtifactError:  # it begins, or is of an older version
        before = now
    if before.get("digest") != now["digest"] and not changed:
        raise DataError(
            f"{dataset.name} has changed since {folder} began ({before.get('training samples')} training samples then, "
            f"{now['training samples']} now): restore it, start a new run, or go on all the same with --changed-data "
            "(in Python changed_data=True)"
        )
    if before is now or before != now:
        write_json(folder / DATA, now)
