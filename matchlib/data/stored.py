"""Data on disk: rows are read when they are drawn; a part that fits into memory stands for all where scores and monitors look at data."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from matchlib.algebra.records import Batch
from matchlib.data.npy import NpyFile
from matchlib.data.units import FAR, HUGE, TINY, converted, standardized
from matchlib.errors import ArtifactError, DataError
from matchlib.io import cache_folder, read_json, write_json

__all__ = ["IN_MEMORY", "META", "Measurement", "Meta", "Stats", "Stored", "digest_of", "measured", "part_of", "read_meta", "stats_of"]

META = "meta.json"
IN_MEMORY = 1 << 30  # bytes in float32; what takes more stays on disk
PARTS = (96 << 20, 32 << 20)  # bytes in float32 of the parts of training and held-out data that are read into memory
CHUNK = 1 << 22  # bytes that are looked at at once, as many numbers in float64 at most


class Stats(BaseModel):
    """What must be known of all numbers of a set before one is used.

    Args:
        shift, scale: mean and standard deviation of the training data.
        limits: smallest and largest number.
        near: whether float32 holds the numbers as they are.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    shift: float
    scale: float
    limits: tuple[float, float]
    near: bool


class Meta(BaseModel):
    """``meta.json`` of a prepared set.

    Args:
        n, shape, dtype: of ``data.npy``.
        labels, pairs, held_out: whether ``labels.npy``, ``source.npy`` and ``held_out.npy`` are there.
        classes: their names, if they have some.
        counts: of the samples of each class.
        digests: SHA-256 of each file.
        made_from, size, channels: what it was prepared from, and how.
        codec: name and settings of the codec whose latents the data are; None for data as they are.
        broken: what could not be read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["matchlib-data"] = "matchlib-data"
    version: Literal[1] = 1
    n: int
    shape: tuple[int, ...]
    dtype: str
    labels: bool
    pairs: bool
    held_out: bool
    classes: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()
    stats: Stats
    digests: dict[str, str]
    made_from: str
    size: int | None
    channels: int | None
    codec: dict[str, str | float | int | bool | None] | None = None
    broken: tuple[str, ...] = ()


def read_meta(folder: Path) -> Meta:
    """Reads ``meta.json``.

    Raises:
        DataError: it is none.
    """
    try:
        return Meta(**read_json(folder / META))
    except (ArtifactError, ValidationError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        why = str(error) if first is None else f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"{folder / META} does not describe a prepared set: {why}") from error


def stats_of(file: NpyFile, held_out: np.ndarray, on_rows: Callable[[int], None] = lambda rows: None) -> Stats:
    """Measures an array on disk in two passes.

    Args:
        held_out: rows that do not count for shift and scale.
        on_rows: told of every chunk how many rows it has; all rows come twice.

    Raises:
        DataError: numbers are not finite, or all alike.
    """
    train = np.ones(len(file), bool)
    train[held_out] = False
    numbers = int(train.sum()) * int(np.prod(file.shape[1:], dtype=np.int64))
    low, high, bad, total = math.inf, -math.inf, 0, list[float]()
    for begin, rows in _chunks(file):
        if rows.dtype.kind == "f":
            bad += int((~np.isfinite(rows)).reshape(len(rows), -1).any(1).sum())
        low, high = min(low, float(rows.min())), max(high, float(rows.max()))
        total.append(float(rows[train[begin : begin + len(rows)]].sum(dtype=np.float64)))
        on_rows(len(rows))
    if bad:
        raise DataError(f"{file.path}: NaN or infinite values in {bad} of {len(file)} samples; remove them")
    if low == high:
        raise DataError(f"{file.path} is constant, so there is nothing to learn")
    width = high / 2 - low / 2
    unit = 1.0 if TINY < width < HUGE else width  # so that squares are numbers
    shift, squares = math.fsum(total) / numbers, list[float]()
    for begin, rows in _chunks(file):
        chosen = rows[train[begin : begin + len(rows)]].astype(np.float64)
        squares.append(float(np.square((chosen - shift) / unit).sum()))
        on_rows(len(rows))
    scale = math.sqrt(math.fsum(squares) / numbers) * unit
    if not scale > 0:
        raise DataError(f"{file.path}: the training data are constant, so there is nothing to learn")
    largest = max(abs(low), abs(high))
    near = file.dtype.itemsize == 1 or (TINY < largest < HUGE and largest < FAR * scale)
    return Stats(shift=shift, scale=scale, limits=(0.0, 255.0) if file.dtype == np.uint8 else (low, high), near=near)


class Measurement(Stats):
    """``stats_of`` a file, and the SHA-256 of it."""

    digest: str


def measured(file: NpyFile, held_out: np.ndarray) -> Measurement:
    """Measures a file, or returns what the cache has of it, if its size and time are as they were."""
    status = os.stat(file.path)
    key = f"{file.path.resolve()} {status.st_size} {status.st_mtime_ns} {len(held_out)}"
    path = cache_folder() / "data" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        return Measurement(**read_json(path))
    except (ArtifactError, ValidationError, TypeError):
        stats = Measurement(**stats_of(file, held_out).model_dump(), digest=digest_of(file.path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, stats.model_dump())
    return stats


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chunks(file: NpyFile) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, CHUNK * len(file) // file.nbytes)
    for begin in range(0, len(file), step):
        yield begin, file.rows(begin, min(begin + step, len(file)))


@dataclass(frozen=True)
class Stored:
    """Training samples on disk.

    Args:
        data, source: arrays of all samples, held-out ones among them.
        label: of all samples.
        index: rows of the training samples.
        units: (shift, scale) of the units that data are brought into, one after the other.
        near: whether float32 holds the numbers of the file as they are.
        digest: of what the set holds.
        device: where batches go.
    """

    data: NpyFile
    source: NpyFile | None
    label: Tensor | None
    index: Tensor
    units: tuple[tuple[float, float], ...]
    near: bool
    digest: str
    device: torch.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.index)

    def take(self, index: Tensor) -> Batch:
        """Returns chosen training samples in model units, on ``device``; their files are read."""
        rows = self.index[index.cpu()]
        return self.rows(rows)

    def rows(self, rows: Tensor) -> Batch:
        """Returns chosen samples by their rows in the files."""
        data = self._read(self.data, rows)
        source = None if self.source is None else self._read(self.source, rows)
        label = None if self.label is None else self.label[rows]
        return Batch(*(None if x is None else self._sent(x) for x in (data, source, label)))  # type: ignore[arg-type]

    def _read(self, file: NpyFile, rows: Tensor) -> Tensor:
        x = torch.as_tensor(file.take(rows.numpy()).astype(np.float32 if self.near else np.float64))
        x = standardized(x, *self.units[0])
        for old, new in zip(self.units, self.units[1:], strict=False):
            x = converted(x, old, new)
        return x

    def _sent(self, x: Tensor) -> Tensor:
        return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x.to(self.device)

    def balanced(self, classes: int) -> Stored:
        """Returns the set with samples of rarer classes repeated until every class is as frequent."""
        assert self.label is not None
        return replace(self, index=self.index[balance(self.label[self.index], classes)])


def balance(label: Tensor, classes: int) -> Tensor:
    """Returns indices that repeat the samples of rarer classes until every class is as frequent."""
    members = [torch.nonzero(label == k)[:, 0] for k in range(classes)]
    size = max(len(x) for x in members)
    return torch.cat([x[torch.arange(size, device=x.device) % len(x)] for x in members if len(x)])


def part_of(index: Tensor, shape: tuple[int, ...], most: int) -> Tensor:
    """Returns a fixed part of some rows whose samples take at most ``most`` bytes in float32, all of them where they fit."""
    count = max(4, most // (4 * math.prod(shape)))
    if count >= len(index):
        return index
    return index[random_order(len(index))[:count].sort().values]


def random_order(n: int, seed: int = 0) -> Tensor:
    """Returns the numbers below n in a random order, the same for the same seed."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))
