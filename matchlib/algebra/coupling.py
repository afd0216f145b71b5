"""Couplings: who is paired with whom."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from matchlib.algebra.records import Batch, Pair
from matchlib.algebra.rows import Coefficients, Row

__all__ = ["Coupling"]


class Coupling(ABC):
    """A joint law of (data, source), sampled batch by batch.

    Laws: the data marginal and the labels are kept; ``batch.data`` receives a gradient; ``gaussian_source`` is told truthfully.

    Attributes:
        paired: a generated sample stays joined to the source it was made from (else the source that joins it is drawn anew).
    """

    paired: ClassVar[bool] = False

    @property
    @abstractmethod
    def gaussian_source(self) -> bool:
        """True only if source ~ N(0, I), independent of the data."""

    @property
    @abstractmethod
    def reads_source(self) -> bool:
        """True if ``batch.source`` is needed: the source is data of its own."""

    @abstractmethod
    def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
        """Returns data and source drawn jointly, with the data's labels."""

    @abstractmethod
    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Returns draws of the source's marginal, shape of ``batch.data``: what a generator starts from."""

    def relations(self, coefficients: Coefficients, *, source_seen: bool) -> tuple[Row, ...]:
        """Returns rows whose conditional expectation, given what the field sees, vanishes.

        For an independent Gaussian source that the field does not see, b source + c noise is all that the state tells of either, so
        ``c source - b noise`` is orthogonal to it.
        """
        if self.gaussian_source and not source_seen:
            return (Row(0.0, coefficients.c, -1.0 * coefficients.b),)
        return ()
