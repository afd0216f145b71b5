"""What a set of samples is scored against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

__all__ = ["Reference", "flat"]

T = TypeVar("T")


def flat(x: Tensor) -> np.ndarray:
    """Returns ``(n, *event)`` as a float64 array ``(n, size)``."""
    return x.detach().cpu().double().flatten(1).numpy()


@dataclass(frozen=True, eq=False)
class Reference:
    """The data that samples are scored against: the training split, in model units.

    Args:
        train, held_out: flattened, ``(n, size)``, float64.
        features: maps ``(n, size)`` to ``(n, k)``.
        size: number of samples in one score, that of the held-out split, so that finite-sample bias is the same for all.
    """

    train: np.ndarray
    held_out: np.ndarray
    features: Callable[[np.ndarray], np.ndarray]
    size: int
    _parts: dict[Callable[[Any], Any], Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def subset(self) -> np.ndarray:
        """``size`` training samples, drawn without replacement as far as there are so many."""
        return self.train[np.random.default_rng(0).permutation(len(self.train))[: self.size]]

    def once(self, part: Callable[[Reference], T]) -> T:
        """Returns ``part(reference)``, computed at the first call: what a metric needs of the reference whatever the samples."""
        if part not in self._parts:
            self._parts[part] = part(self)
        return self._parts[part]
