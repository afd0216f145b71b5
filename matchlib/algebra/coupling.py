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
    """A joint distribution of (data, source), sampled batch by batch.

    Laws: the data marginal and the labels are kept; ``batch.data`` receives a gradient; ``gaussian_source`` is stated truthfully; unless it
    keeps pairs, the source is independent of the label, so that any source may be asked for any label.

    Attributes:
        gaussian_source: the source is N(0, I), independent of the data.
        reads_source: ``batch.source`` is needed: the source is data of its own.
        paired: a generated sample stays joined to the source it was made from (else the source that joins it is drawn anew).
        independent: the source is drawn independently of the data.
        least: samples of a batch, at least.
    """

    gaussian_source: ClassVar[bool] = False
    reads_source: ClassVar[bool] = False
    paired: ClassVar[bool] = False
    independent: ClassVar[bool] = False
    least: ClassVar[int] = 1

    @property
    def draws_source(self) -> bool:
        """True if the source is drawn at random, so that a generator starts from nothing."""
        return not self.reads_source

    def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
        """Returns data and source drawn jointly, with the data's labels: each sample with its own ``source``, unless a plugin says else."""
        return Pair(batch.data, self.source(batch, generator=generator), batch.label)

    @abstractmethod
    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Returns draws of the source's marginal, shape of ``batch.data``: what a generator starts from."""

    def given(self, batch: Batch) -> Tensor | None:
        """Returns the sources that a batch has for a generator to start from, ``(b, *event)``; None if it has none, or they are drawn."""
        return batch.source if self.reads_source else None

    def block_size(self, size: int) -> int:
        """Returns how many neighbours in a batch of ``size`` are paired jointly, so that a slice of it must not part them."""
        del size
        return 1

    def partner(self, data: Tensor, source: Tensor) -> Tensor | None:
        """Returns the source that joins data made from ``source`` at an earlier time; None for a fresh standard normal."""
        del data
        return None if self.gaussian_source else source

    def relations(self, coefficients: Coefficients, *, source_seen: bool) -> tuple[Row, ...]:
        """Returns rows whose conditional expectation, given what the field sees, vanishes.

        For an independent Gaussian source that the field does not see, b source + c noise is all that the state tells of either, so
        ``c source - b noise`` is orthogonal to it.
        """
        if self.gaussian_source and not source_seen:
            return (Row(0.0, coefficients.c, -1.0 * coefficients.b),)
        return ()
