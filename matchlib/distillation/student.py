"""Students: generators that need one evaluation, or a few."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from matchlib.algebra.records import Condition

__all__ = ["Student"]


class Student(nn.Module, ABC):
    """A map from a source (and fresh randomness) to data.

    A plugin is constructed as ``Plugin(teacher, field, t_start=..., **settings)``.

    - ``teacher`` gives the matching model and the moments of the data.
    - ``field`` is the network to train. It predicts the data, unless it has an attribute ``model``: then it predicts that model's row.
      If ``field`` is None, the student starts from a copy of the teacher's field.
    - ``t_start`` is the time at which the student reads the source as a state of the path.

    A student that takes its source through ``self.start``, an ``nn.Identity()`` at first, gets a ``GaussianStart`` there where the
    settings say so (``student.axes``), and has to use it.

    Attributes:
        nfe: network evaluations per sample.
    """

    nfe: int

    @abstractmethod
    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        """Returns data of shape ``(b, *event)``; the gradient reaches the weights."""
