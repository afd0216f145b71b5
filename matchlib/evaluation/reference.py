"""Metrics: what a set of samples is compared with, and how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

__all__ = ["Metric", "Reference", "flat"]


def flat(x: Tensor) -> np.ndarray:
    """Returns ``(n, *event)`` as a float64 array ``(n, size)``."""
    return x.detach().cpu().double().flatten(1).numpy()


@dataclass(frozen=True)
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

    def subset(self, seed: int = 0) -> np.ndarray:
        """Returns ``size`` training samples, drawn without replacement as far as there are so many."""
        rng = np.random.default_rng(seed)
        return self.train[rng.permutation(len(self.train))[: self.size]]


class Metric(ABC):
    """One number for a set of samples, collected by ``update`` and finished by ``compute``.

    Args:
        reference: what to compare with.

    Attributes:
        better: -1 where lower is better, 1 where higher is, 0 where neither.
    """

    better: int = -1

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self._parts: list[np.ndarray] = []

    @staticmethod
    def applies(reference: Reference) -> bool:
        """Whether the metric makes sense for data of this size; it is left out of reports otherwise."""
        del reference
        return True

    def update(self, samples: np.ndarray) -> None:
        """Adds samples, ``(n, size)``, in model units."""
        self._parts.append(samples)

    def compute(self) -> float:
        """Returns the score of all samples so far."""
        return self.score(np.concatenate(self._parts))

    @abstractmethod
    def score(self, samples: np.ndarray) -> float:
        """Returns the score of samples ``(n, size)``."""
