"""Objectives: which linear functional of the latents the network predicts, and with which weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.interpolant import Interpolant
from matchlib.algebra.rows import Coefficients, Row, Scalar

__all__ = ["Objective", "PathModel"]


class PathModel(Protocol):
    """What a row may depend on: a matching model without its objective."""

    @property
    def coupling(self) -> Coupling:
        """Who is paired with whom."""

    @property
    def interpolant(self) -> Interpolant:
        """How a pair is joined."""

    @property
    def sees_source(self) -> bool:
        """Whether the field is given the source besides the state."""

    @property
    def gaussian(self) -> bool:
        """Whether the state, given the data and what the field sees, is Gaussian through both source and noise."""


class Objective(ABC):
    """A prediction: a network trained by least squares on ``row`` learns E[row(data, source, noise) | what it sees]."""

    @property
    def heads(self) -> tuple[Objective, ...]:
        """The predictions of one row that a field makes side by side: this one alone, unless a plugin joins several."""
        return (self,)

    @abstractmethod
    def row(self, model: PathModel, at: Coefficients) -> Row:
        """Returns the row at ``at``, for the coupling and interpolant of ``model``.

        Raises:
            IncompatibleError: the model has no such prediction (a drift without a prior process, say).
        """

    def weight(self, at: Coefficients) -> Scalar:
        """Returns the positive weight lambda(t) of the squared error, ``(b,)`` or a float; 1 unless a plugin states its own."""
        del at
        return 1.0
