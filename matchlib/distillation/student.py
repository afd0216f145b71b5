"""Students: generators that need one evaluation, or a few."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from matchlib.algebra.records import Condition

__all__ = ["Student"]


class Student(nn.Module, ABC):
    """A map from a source (and fresh randomness) to data.

    A plugin is constructed as ``Plugin(teacher, field, t_start=..., **its settings)``: ``teacher`` gives the model, the moments and, where
    ``field`` is None, the first weights; ``field`` is a field of the student's own, for the ``model`` that it states or else predicting the
    data; ``t_start`` is the time at which the source is read as a state.

    Attributes:
        nfe: network evaluations per sample.
    """

    nfe: int

    @abstractmethod
    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        """Returns data of shape ``(b, *event)``; the gradient reaches the weights."""
