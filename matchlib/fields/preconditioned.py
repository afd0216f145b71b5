"""Fields: networks preconditioned for the row they predict.

References:
    Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
    https://arxiv.org/abs/2206.00364 (section 5: the rule stated here for every row of every interpolant)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.records import Batch, Condition
from matchlib.algebra.rows import Row, Scalar, join_heads, joined_shape, plus, scaled
from matchlib.errors import IncompatibleError

__all__ = ["ExactField", "NetworkSpec", "Preconditioned"]


@dataclass(frozen=True)
class NetworkSpec:
    """What a network must accept.

    Args:
        shape: event shape of state and prediction.
        classes: number of classes; None if there are no integer labels.
        sees_source: whether ``condition.source`` is given.
        label_shape: event shape of labels that are not classes; None if there are none.
        heads: number of predictions; several are answered along a new axis, ``(b, heads, *event)``.
    """

    shape: tuple[int, ...]
    classes: int | None = None
    sees_source: bool = False
    label_shape: tuple[int, ...] | None = None
    heads: int = 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Event shape of the prediction."""
        return joined_shape(self.shape, self.heads)


class ExactField(nn.Module, ABC):
    """A field that is a formula, without weights to train: it stands among the networks and is fitted to the data instead.

    Constructed as ``Plugin(signature, model, **settings)``; it predicts the row of ``model.objective`` itself.
    """

    @abstractmethod
    def fit(self, data: Batch) -> None:
        """Takes from the training data, in model units, whatever its settings leave open."""


def _length(row: Row) -> Tensor:
    return torch.as_tensor(row.dot(row)).sqrt()


class Preconditioned(nn.Module):
    """The field ``skip state + out network(state/|state|)`` for the model's row, or for each of its rows.

    A *row* is a prediction's coefficients on the latents data, source and noise. With known second moments rows are vectors: ``skip`` is
    the regression of the predicted row on the state's row, and ``out`` is the length of what that leaves. So the network's input and
    target have unit variance for every family, prediction and time.

    Args:
        network: called as ``network(state, time, condition)``, with an answer for each head.
        model: whose rows are predicted.
        moments: of data and source.

    Attributes:
        core: name of the attribute that holds what is not linear; the rest of the field is a linear combination at a given time.
    """

    core: ClassVar[str] = "network"

    def __init__(self, network: nn.Module, model: MatchingModel, moments: Moments) -> None:
        super().__init__()
        self.network, self.model, self.moments = network, model, moments
        self.spec: dict[str, Any] = {"name": None}  # the network's registered name and settings, for descriptions
        self.precision: torch.dtype | None = None  # of the network's matrix products, where it is less than that of its weights

    def scales(self, time: Tensor) -> tuple[Scalar, list[tuple[Scalar, Scalar]]]:
        """Returns inner and, for each row, (skip, out) at ``time``, each ``(b,)``."""
        at = self.model.interpolant.coefficients(time)
        state, rows = self.moments.whiten(at.state), [self.moments.whiten(row) for row in self.model.rows(at)]
        inner = torch.as_tensor(state.dot(state)).rsqrt()
        return inner, [(row.dot(state) * (inner * inner), _length(row.cross(state)) * inner) for row in rows]

    def _answer(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        if self.precision is None:
            return self.network(state, time, condition)
        with torch.autocast(state.device.type, self.precision):
            answer = self.network(state, time, condition)
        return answer.to(state.dtype)

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns the prediction of the model's row, shape ``(b, *event)``, or of its rows, ``(b, heads, *event)``.

        Raises:
            IncompatibleError: the network's answer has another shape.
        """
        inner, rows = self.scales(time)
        if condition.source is not None:
            condition = replace(condition, source=condition.source / self.moments.source**0.5)
        answer = self._answer(scaled(inner, state), time, condition)
        wanted = joined_shape(state.shape[1:], len(rows))
        if answer.shape[1:] != wanted:
            raise IncompatibleError(
                f"{type(self.network).__name__} answers with events of shape {tuple(answer.shape[1:])} where {wanted} is needed: "
                "an answer has the state's shape, with several heads along an axis before it (NetworkSpec.output_shape)"
            )
        parts = zip(rows, self.model.split(answer), strict=True)
        return join_heads([plus(scaled(skip, state), out, part) for (skip, out), part in parts])
