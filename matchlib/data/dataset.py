"""Data sets: a fixed split, normalised once, drawn as a pure function of a generator; in memory, or on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.model import Moments, mean_square
from matchlib.algebra.records import Batch
from matchlib.data.codec import Codec
from matchlib.data.stored import PARTS, Stored, balance, part_of, random_order
from matchlib.data.units import FAR, HUGE, TINY, converted, exact, standardized
from matchlib.errors import DataError

__all__ = ["Chosen", "Dataset", "checked_labels", "data_digest", "map_batch", "split"]

LARGE = 1 << 26  # bytes of a tensor that is worth being made smaller
CHUNK = 1 << 20  # numbers that are looked at at once
PAIRED = 4096  # training samples that second moments of pairs are measured on
logger = logging.getLogger("matchlib")
EIGHT_BITS = (np.uint8, torch.uint8)
CLASSES = 1000  # so many classes are accepted of however few samples


def map_batch(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Returns the batch with ``change`` applied to each tensor that is there."""
    return Batch(*(None if x is None else change(x) for x in (batch.data, batch.source, batch.label)))  # type: ignore[arg-type]


def random_rows(x: Tensor, most: int) -> Tensor:
    """Returns rows of a tensor, a fixed random part where there are more than ``most``: data may lie in the order of their classes."""
    return x if len(x) <= most else x[random_order(len(x))[:most].to(x.device)]


def split(total: int, share: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Returns fixed (train, held-out) indices; the held-out share is rounded up and neither side is empty."""
    order = random_order(total, seed)
    held_out = min(max(1, int(np.ceil(share * total))), total - 1)
    return order[held_out:].sort().values, order[:held_out].sort().values


def _bytes_of(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns (codes, table) with ``table[codes] == x``, or (x, None) if there are too many different numbers."""
    table, chunks = x.new_empty(0), x.flatten().split(CHUNK)
    for chunk in chunks:
        table = torch.cat([table, chunk]).unique()
        if len(table) > 256:  # nan is never equal to itself, so data that are not finite stay as they are
            return x, None
    codes = torch.cat([torch.searchsorted(table, chunk).to(torch.uint8) for chunk in chunks]).reshape(x.shape)
    same = all(torch.equal(table[part.long()], chunk) for part, chunk in zip(codes.flatten().split(CHUNK), chunks, strict=True))
    return (codes, table) if same else (x, None)


@dataclass(frozen=True)
class Chosen:
    """Training samples that were drawn, before they are read.

    Args:
        index: of the samples, ``(b,)``.
        flipped: which are to be flipped horizontally, ``(b,)``; None for none.
    """

    index: Tensor
    flipped: Tensor | None


@dataclass(frozen=True)
class Dataset:
    """Training and held-out data in model units; ``from_arrays`` makes them such that the training data have mean 0 and mean square 1.

    Args:
        name: as the user wrote it.
        train, held_out: ``data`` and ``source`` of shape ``(n, *event)``, float32; integer labels ``(n,)`` or a tensor ``(n, *)``.
        shift, scale: ``data units = shift + scale * model units``.
        classes: number of classes if labels are integers, else None.
        limits: smallest and largest value in data units, 0 and 255 for bytes; for pictures and 8-bit files.
        tables: where the tensors of ``train`` hold codes in place of numbers (see ``compact``), the numbers that these stand for: of its
            data and of its source.
        stored: where all training samples are, if they are not in memory; ``train`` and ``held_out`` are then fixed parts of them.
        flip: whether samples are drawn flipped horizontally half of the time, with their source.
        codec: whose latents the samples are; None for data as they are.
    """

    name: str
    train: Batch
    held_out: Batch
    shift: float
    scale: float
    classes: int | None
    limits: tuple[float, float]
    tables: tuple[Tensor | None, Tensor | None] = (None, None)
    stored: Stored | None = None
    flip: bool = False
    codec: Codec | None = None

    @classmethod
    def from_stored(cls, name: str, stored: Stored, held_out: Tensor, classes: int | None, limits: tuple[float, float]) -> Dataset:
        """Returns a data set on disk.

        Args:
            stored: the training samples.
            held_out: rows of the held-out ones.
        """
        index, (shift, scale) = stored.index, stored.units[-1]
        train, held = (stored.rows(part_of(rows, stored.data.shape[1:], most)) for rows, most in zip((index, held_out), PARTS, strict=True))
        _check_differ(name, train.data)
        return cls(name, train, held, shift, scale, classes, limits, stored=stored)

    @classmethod
    def from_arrays(
        cls,
        name: str,
        data: np.ndarray,
        *,
        source: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        held_out: np.ndarray | None = None,
    ) -> Dataset:
        """Checks, splits and normalises arrays.

        Args:
            data: shape ``(n, *event)``, numbers of any type, at least 4 samples, finite, not constant. What lies far from zero, compared
                with its spread, is centred in float64; everything else in float32.
            source: the same shape, paired with ``data``.
            labels: integers >= 0 of shape ``(n,)``, below n or 1,000; or floats ``(n, *)``, finite.
            held_out: indices of the held-out samples; by default a fixed fifth.

        Raises:
            DataError: naming the array and what is wrong with it.
        """
        x, z = _numbers(name, "data", data), None if source is None else _numbers(name, "source", source)
        y, classes = checked_labels(name, labels, len(x))
        if z is not None and z.shape != x.shape:
            raise DataError(f"{name}: 'source' must have the shape of 'data' {tuple(x.shape)}, got {tuple(z.shape)}")
        train_index, held_index = split(len(x)) if held_out is None else _chosen(name, held_out, len(x))
        part = x[train_index].double()
        _warn_of_layout(name, data, tuple(x.shape[1:]))
        low, high = float(part.min()), float(part.max())
        if low == high:
            raise DataError(f"{name}: 'data' is constant, so there is nothing to learn")
        _check_differ(name, part)
        width = high / 2 - low / 2
        unit = 1.0 if TINY < width < HUGE else width  # so that squares are numbers
        shift = float(part.mean())
        scale = float(((part - shift) / unit).square().mean().sqrt()) * unit
        limits = (0.0, 255.0) if getattr(data, "dtype", None) in EIGHT_BITS else (float(x.min()), float(x.max()))
        both = Batch(standardized(x, shift, scale), None if z is None else standardized(z, shift, scale), y)
        train, held = (map_batch(both, lambda part, i=i: part[i]) for i in (train_index, held_index))  # type: ignore[misc]
        return cls(name, train, held, shift, scale, classes, limits)

    def __len__(self) -> int:
        return len(self.train.data) if self.stored is None else len(self.stored)

    @property
    def labels(self) -> Tensor | None:
        """Labels of all training samples."""
        return self.train.label if self.stored is None or self.stored.label is None else self.stored.label[self.stored.index]

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return tuple(self.train.data.shape[1:])

    @property
    def model_limits(self) -> tuple[float, float]:
        """The limits in model units."""
        low, high = ((limit - self.shift) / self.scale for limit in self.limits)
        return low, high

    @property
    def paired(self) -> bool:
        """Whether the data come with a source."""
        return self.train.source is not None

    def to(self, device: torch.device) -> Dataset:
        """Returns the data set with its tensors on ``device``."""
        return replace(
            self,
            train=map_batch(self.train, lambda x: x.to(device)),
            held_out=map_batch(self.held_out, lambda x: x.to(device)),
            tables=tuple(None if x is None else x.to(device) for x in self.tables),  # type: ignore[arg-type]
            stored=None if self.stored is None else replace(self.stored, device=device),
        )

    def compact(self, least: int = LARGE) -> Dataset:
        """Returns a data set that draws the same numbers and whose training data take a quarter of the memory, where that is possible.

        It is where there are at most 256 different numbers, as in 8-bit images: these are kept as bytes and looked up when drawn.

        Args:
            least: smaller tensors, in bytes, are left as they are.
        """
        train, held = self.train, self.tables

        def small(x: Tensor, table: Tensor | None) -> tuple[Tensor, Tensor | None]:
            return (x, table) if table is not None or x.nbytes < least else _bytes_of(x)

        data, of_data = small(train.data, held[0])
        source, of_source = (None, None) if train.source is None else small(train.source, held[1])
        return replace(self, train=replace(train, data=data, source=source), tables=(of_data, of_source))

    def without_labels(self) -> Dataset:
        """Returns the data set without its labels."""
        stored = None if self.stored is None else replace(self.stored, label=None)
        train, held_out = (replace(part, label=None) for part in (self.train, self.held_out))
        return replace(self, train=train, held_out=held_out, classes=None, stored=stored)

    def balanced(self) -> Dataset:
        """Returns the data set with the training samples of rarer classes repeated until every class is as frequent.

        Raises:
            DataError: there are no classes.
        """
        if self.classes is None or self.train.label is None:
            raise DataError(f"{self.name} has no classes to balance; leave data.balanced out")
        index = balance(self.train.label, self.classes)
        stored = None if self.stored is None else self.stored.balanced(self.classes)
        return replace(self, train=map_batch(self.train, lambda x: x[index]), stored=stored)

    def normalized_as(self, shift: float, scale: float) -> Dataset:
        """Returns the data set in other model units, ``data units = shift + scale * model units``: those of a given teacher."""
        if (shift, scale) == (self.shift, self.scale):
            return self

        old, new = (self.shift, self.scale), (shift, scale)
        train, held_out = (
            Batch(converted(part.data, old, new), None if part.source is None else converted(part.source, old, new), part.label)
            for part in (self.train, self.held_out)
        )
        stored = None if self.stored is None else replace(self.stored, units=(*self.stored.units, new))
        return replace(self, train=train, held_out=held_out, shift=shift, scale=scale, stored=stored)

    def digest(self) -> str:
        """Returns a digest of all numbers and labels."""
        kept = "" if self.stored is None else self.stored.digest
        return data_digest(kept.encode(), *(x for part in (self.train, self.held_out) for x in (part.data, part.source, part.label)))

    def draw(self, size: int, generator: torch.Generator) -> Batch:
        """Draws ``size`` training samples with replacement."""
        return self.read(self.choose(size, generator))

    def choose(self, size: int, generator: torch.Generator) -> Chosen:
        """Draws which training samples ``draw`` returns."""
        index = torch.randint(len(self), (size,), generator=generator, device=generator.device)
        return Chosen(index, torch.rand(size, generator=generator, device=generator.device) < 0.5 if self.flip else None)

    def read(self, chosen: Chosen) -> Batch:
        """Returns the training samples that ``choose`` has drawn."""
        batch = self.take(chosen.index)
        if chosen.flipped is None:
            return batch
        where = chosen.flipped.to(batch.data.device).reshape(-1, *(1,) * len(self.shape))

        def flip(x: Tensor | None) -> Tensor | None:
            return None if x is None else torch.where(where, x.flip(-1), x)

        return Batch(flip(batch.data), flip(batch.source), batch.label)  # type: ignore[arg-type]

    def take(self, index: Tensor | slice) -> Batch:
        """Returns chosen training samples; a slice is one of ``train``."""
        return self._of_train(index) if self.stored is None or isinstance(index, slice) else self.stored.take(index)

    def some(self, most: int) -> Batch:
        """Returns at most so many samples of ``train``, always the same, drawn at random where there are more."""
        return self._of_train(random_rows(torch.arange(len(self.train.data), device=self.train.data.device), most))

    def _of_train(self, index: Tensor | slice) -> Batch:
        """Chosen samples of ``train``, with numbers in the place of codes."""
        chosen = map_batch(self.train, lambda x: x[index])
        of_data, of_source = self.tables
        data = chosen.data if of_data is None else of_data[chosen.data.long()]
        source = chosen.source if of_source is None or chosen.source is None else of_source[chosen.source.long()]
        return Batch(data, source, chosen.label)

    def moments(self, coupling: Coupling) -> Moments:
        """Returns the second moments of (data, source) under ``coupling``, from the training data."""
        if coupling.gaussian_source:
            return Moments(round(mean_square(self.train.data), 6))
        some = map_batch(self.train, lambda x: random_rows(x, PAIRED))
        pair = coupling.pair(some, generator=torch.Generator(some.data.device).manual_seed(0))
        cross = float((pair.data.double() * pair.source.double()).mean())
        return Moments(mean_square(pair.data), mean_square(pair.source), cross)

    def denormalize(self, x: Tensor) -> Tensor:
        """Returns samples of model units in the units of the data; in float64 where float32 would not hold them."""
        return self.shift + self.scale * exact(x, self.shift, self.scale)

    def decode(self, x: Tensor) -> Tensor:
        """Returns samples of model units as they are shown: in the units of the data, and latents as the data that they stand for."""
        samples = self.denormalize(x)
        return samples if self.codec is None else self.codec.decode(samples)

    @property
    def shown_limits(self) -> tuple[float, float]:
        """Smallest and largest number of what ``decode`` returns."""
        return self.limits if self.codec is None else self.codec.limits

    def summary(self) -> str:
        """Returns one line: numbers of samples, shape, range, classes, and held-out samples that are training samples as well."""
        labels = (
            "no labels" if self.train.label is None else "labels that are numbers" if self.classes is None else f"{self.classes} classes"
        )
        repeated = self.repeated()
        also = f"; {repeated:,} of the held-out samples are training samples as well, so scores flatter copies" if repeated else ""
        if self.stored is not None:
            also += f"; they stay on disk, and scores read {len(self.train.data):,} of them"
        return (
            f"{self.name}: {len(self):,} training and {len(self.held_out.data):,} held-out "
            f"{'pairs' if self.paired else 'samples'} of shape {self.shape}, "
            f"values {self.limits[0]:.6g} to {self.limits[1]:.6g}, {labels}{also}"
        )

    def repeated(self) -> int:
        """Returns how many held-out samples equal a training sample, number for number, with their source."""

        def keys(part: Batch) -> list[int]:
            tensors = [x.detach().cpu().flatten(1).numpy() for x in (part.data, part.source) if x is not None]
            return [hash(b"".join(row.tobytes() for row in rows)) for rows in zip(*tensors, strict=True)]

        seen = set(keys(self.train))
        return sum(key in seen for key in keys(self.held_out))


def _check_differ(name: str, samples: Tensor) -> None:
    if (samples == samples[0]).all():
        raise DataError(f"{name}: all training samples are the same, so there is nothing to learn")


def data_digest(text: bytes, *tensors: Tensor | None) -> str:
    """Returns a digest of a text and of tensors."""
    digest = hashlib.sha256(text)
    for tensor in tensors:
        if tensor is not None and tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:20]


def _warn_of_layout(name: str, data: Any, shape: tuple[int, ...]) -> None:
    """Says how images are laid out where 8-bit numbers look like images of another layout."""
    if getattr(data, "dtype", None) not in EIGHT_BITS:
        return
    if len(shape) == 2 and min(shape) > 4:
        logger.warning(
            "%s: samples of shape %s are taken for plain numbers; grey images are (1, height, width): data[:, None]", name, shape
        )
    elif len(shape) == 3 and shape[-1] in (1, 3, 4) and shape[0] > 4:
        logger.warning("%s: images are (channels, height, width), and these have shape %s: data.transpose(0, 3, 1, 2)", name, shape)


def _numbers(name: str, key: str, array: Any) -> Tensor:
    """An array as a tensor of the type that it is centred in."""
    try:
        array = np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {key!r} must be an array of numbers, got {type(array).__name__}") from error
    if array.dtype.kind not in "fiub" or array.ndim < 2 or len(array) < 4 or 0 in array.shape:
        raise DataError(f"{name}: {key!r} must be numbers of shape (n, *event) with n >= 4, got {array.dtype} of shape {array.shape}")
    bad = int((~np.isfinite(array)).reshape(len(array), -1).any(1).sum()) if array.dtype.kind == "f" else 0
    if bad:
        raise DataError(f"{name}: {key!r} has NaN or infinite values in {bad} of {len(array)} samples; remove them")
    return torch.as_tensor(array.astype(np.float32 if _is_near(array) else np.float64))


def _is_near(array: np.ndarray) -> bool:
    """Whether float32 keeps what matters: no value is large, or far from zero compared with the spread."""
    if array.itemsize == 1:
        return True
    largest = max(abs(float(array.min())), abs(float(array.max())))
    return TINY < largest < HUGE and largest < FAR * float(array.std(dtype=np.float64))


def checked_labels(name: str, labels: Any, n: int) -> tuple[Tensor | None, int | None]:
    """Returns labels as a tensor, and the number of classes if they are integers.

    Raises:
        DataError: they are no labels of ``n`` samples.
    """
    if labels is None:
        return None, None
    array = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if array.ndim == 0 or len(array) != n:
        raise DataError(f"{name}: {n} samples but {len(array) if array.ndim else 'no array of'} labels")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise DataError(f"{name}: 'labels' has NaN or infinite values; remove those samples, or the labels")
        return torch.as_tensor(array.astype(np.float32)), None
    if array.dtype.kind not in "iub" or array.ndim != 1 or array.min() < 0:
        raise DataError(f"{name}: labels must be integers >= 0 of shape (n,) or floats (n, *), got {array.dtype} {array.shape}")
    classes = int(array.max()) + 1
    if classes > max(n, CLASSES):
        raise DataError(f"{name}: labels go up to {classes - 1} for {n} samples; number the classes from 0, without gaps")
    return torch.as_tensor(array.astype(np.int64)), classes


def _chosen(name: str, held_out: Any, n: int) -> tuple[Tensor, Tensor]:
    """Training and held-out indices, where the latter are given."""
    index = np.asarray(held_out)
    if index.ndim != 1 or index.dtype.kind not in "iu" or not 0 < len(np.unique(index)) < n or index.min() < 0 or index.max() >= n:
        raise DataError(f"{name}: 'held_out' must be indices from 0 to {n - 1}, some of them, got {index.dtype} of shape {index.shape}")
    return torch.as_tensor(np.setdiff1d(np.arange(n), index)), torch.as_tensor(index)
