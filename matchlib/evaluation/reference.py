"""Sets of points, and what a set of samples is scored against."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from matchlib.data.stored import random_order
from matchlib.errors import ArtifactError
from matchlib.evaluation.work import Work
from matchlib.io import read_tensors, write_tensors

__all__ = ["Extractor", "PointSet", "Reference", "TensorCache", "classes_missing", "shares_of", "total_variation"]

T = TypeVar("T")
ROWS = 256  # events whose features are computed at once
MISSING = 0.1  # of its share in the data, below which a class counts as missing
LARGEST = 2**24  # numbers in a tensor that is cached


def shares_of(classes: Tensor, count: int) -> Tensor:
    """Returns the share of each of ``count`` classes, ``(n,) -> (count,)``, float64."""
    return torch.bincount(classes, minlength=count).double() / len(classes)


def total_variation(shares: Tensor, others: Tensor) -> float:
    """Returns half of the sum of differences, in [0, 1]."""
    return float((shares - others).abs().sum() / 2)


def classes_missing(shares: Tensor, expected: Tensor) -> float:
    """Returns how many classes have less than a tenth of their expected share."""
    return float((shares < MISSING * expected).sum())


class Extractor:
    """Maps events to the features that distances are taken in, and names their classes.

    Attributes:
        name: for the record; equal names mean equal features.
        takes: for the record: in which form events go in.
        classes: how many classes are told apart.
    """

    name = "none"
    takes = "numbers as they are"
    classes = 0

    def features(self, events: Tensor) -> Tensor:
        """``(n, *event) -> (n, k)``, in units of one feature's standard deviation over the training split."""
        return events.flatten(1)

    def classify(self, events: Tensor) -> Tensor:
        """``(n, *event) -> (n,)``, integers below ``classes``."""
        raise NotImplementedError("these features come without classes")

    def look(self, events: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features and classes of events; no classes, shape ``(0,)``, where none are told apart."""
        return self.features(events), self.classify(events) if self.classes else torch.zeros(0, dtype=torch.long)


class TensorCache:
    """Tensors by name that are computed once, each in a file of its own.

    Args:
        folder: of the files; None caches nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def get(self, name: str, compute: Callable[[], Tensor], device: torch.device) -> Tensor:
        """Returns the tensor of that name, computed where it is missing or damaged."""
        if self.folder is None:
            return compute()
        path = self.folder / f"{name}.safetensors"
        try:
            return read_tensors(path)[0]["value"].to(device)
        except (ArtifactError, KeyError):
            value = compute()
        if value.numel() <= LARGEST:
            try:
                write_tensors(path, {"value": value})
            except ArtifactError as error:
                warnings.warn(f"a part of the scores is not cached: {error}", stacklevel=2)
        return value


class PointSet:
    """Some events, with what several metrics need of them, each computed once.

    Args:
        events: ``(n, *event)``, in model units.
        extractor: of their features.
        work: told of every chunk.
        cache: of what is computed of these events.
    """

    def __init__(self, events: Tensor, extractor: Extractor, work: Work | None = None, cache: TensorCache | None = None) -> None:
        self.events, self.extractor, self.work, self.cache = events, extractor, work or Work(), cache or TensorCache()
        self._known: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.events)

    @cached_property
    def values(self) -> Tensor:
        """The events as rows, ``(n, size)``, floats."""
        rows = self.events.detach().flatten(1)
        return rows if rows.is_floating_point() else rows.double()

    @cached_property
    def _looked(self) -> tuple[Tensor, Tensor]:
        """Features and classes of each event, from one pass through the extractor."""
        looked = [self.extractor.look(part) for part in self.work.over(self.events.split(ROWS), "features")]
        features, classes = zip(*looked, strict=True)
        return torch.cat([part.double() for part in features]), torch.cat(classes)

    @property
    def features(self) -> Tensor:
        """``(n, k)``, float64."""
        return self._looked[0]

    @property
    def classes(self) -> Tensor:
        """The class of each event, ``(n,)``."""
        return self._looked[1]

    @cached_property
    def shares(self) -> Tensor:
        """The share of each class, ``(classes,)``, which sum to 1."""
        return self.cached("shares", lambda: shares_of(self.classes, self.extractor.classes))

    def first(self, n: int) -> PointSet:
        """Returns the first n points, at most all."""
        return self.once(("first", n), lambda: self if n >= len(self) else PointSet(self.events[:n], self.extractor, self.work))

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """Returns ``compute()``, called at the first request for ``key``."""
        if key not in self._known:
            self._known[key] = compute()
        known: T = self._known[key]
        return known

    def cached(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Returns ``compute()``, called at the first request for ``name``, or what the cache has."""
        return self.once(("cached", name), lambda: self.cache.get(name, compute, self.events.device))


class Reference:
    """What samples are scored against: the training split, in model units.

    Args:
        train, held_out: ``(n, *event)``.
        extractor: of the features.
        size: number of samples in one score, so that finite-sample bias is the same for all.
        subset: number of points that metrics use whose cost grows with its square.
        work: told of every chunk.
        cache: folder for what depends on the data alone; None caches nothing.
    """

    def __init__(
        self,
        train: Tensor,
        held_out: Tensor,
        extractor: Extractor | None = None,
        size: int | None = None,
        subset: int = 2000,
        work: Work | None = None,
        cache: Path | None = None,
    ) -> None:
        self.extractor, self.work, self.cache = extractor or Extractor(), work or Work(), cache
        mixed = torch.as_tensor(held_out)[random_order(len(held_out))]  # of which metrics use the first
        self.train, self.held_out = self._own(train, "train"), self._own(mixed, "held-out")
        self.size = size or len(held_out)
        self.subset = min(subset, self.size)

    def points(self, events: Any) -> PointSet:
        """Returns events, a tensor or an array, as a set of points."""
        return events if isinstance(events, PointSet) else PointSet(torch.as_tensor(events), self.extractor, self.work)

    def _own(self, events: Any, name: str) -> PointSet:
        """A set of points of the data, with its part of the cache."""
        return PointSet(torch.as_tensor(events), self.extractor, self.work, TensorCache(self.cache and self.cache / name))

    @cached_property
    def real(self) -> PointSet:
        """``subset`` training points, drawn without replacement as far as there are so many."""
        order = np.random.default_rng(0).permutation(len(self.train))[: self.subset]
        chosen = self.train.events[torch.as_tensor(order, device=self.train.events.device)]
        return self._own(chosen, f"real-{self.subset}")

    def some(self, samples: PointSet) -> PointSet:
        """Returns the samples that metrics of quadratic cost use: the first ``subset``."""
        return samples.first(self.subset)
