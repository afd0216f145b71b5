"""A student as a plain module of tensors, without random numbers: what is written to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.algebra.records import Condition
from matchlib.algebra.rows import split_heads
from matchlib.data.units import exact
from matchlib.exporting.table import SOURCE, Combination, Label, Table, Time

__all__ = ["LABEL", "Generator"]

LABEL = "label"


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


class Generator(nn.Module):
    """``(source, label?, noise_1, ..., noise_k) -> data``, both in data units.

    Args:
        network: what the table's calls are calls of.
        table: the rest of the student.
        normalization: (shift, scale) of the data.
        labelled: whether there are labels.
        source_is_data: whether the source is in data units; it is standard normal otherwise.
        start: what the source goes through before the table.
    """

    def __init__(
        self,
        network: Callable[..., Any],
        table: Table,
        normalization: tuple[float, float],
        *,
        labelled: bool,
        source_is_data: bool,
        start: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.network = network if isinstance(network, nn.Module) else _Function(network)
        self.table, self.source_is_data, self.start = table, source_is_data, start or nn.Identity()
        self.shift, self.scale = normalization
        self.names = (SOURCE, *((LABEL,) if labelled else ()), *table.noises)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Returns samples ``(b, *event)`` of the inputs that ``names`` lists."""
        values = dict(zip(self.names, inputs, strict=True))
        if self.source_is_data:
            source = values[SOURCE]
            values[SOURCE] = ((exact(source, self.shift, self.scale) - self.shift) / self.scale).to(source.dtype)
        values[SOURCE] = self.start(values[SOURCE])
        for call in self.table.calls:
            args = [_value(x, values) for x in call.args]
            answer = self.network(*args, **{key: _value(x, values) for key, x in call.kwargs.items()})
            values.update(zip(call.predictions, split_heads(answer, len(call.predictions)), strict=True))
        return self.shift + self.scale * exact(_sum(self.table.sample, values), self.shift, self.scale)


def _value(argument: Any, values: Mapping[str, Tensor]) -> Any:
    """Returns an argument of the table as a tensor."""
    if isinstance(argument, Combination):
        return _sum(argument, values)
    if isinstance(argument, Time):
        source = values[SOURCE]
        return torch.full(source.shape[:1], argument.value, dtype=argument.dtype or source.dtype, device=source.device)
    if isinstance(argument, Label):
        return values[LABEL]
    if isinstance(argument, Condition):
        return Condition(_value(argument.label, values), _value(argument.source, values))
    return argument


def _sum(combination: Combination, values: Mapping[str, Tensor]) -> Tensor:
    terms = [weight * values[name] for name, weight in combination.weights.items()]
    return sum(terms[1:], start=terms[0]) if terms else torch.zeros_like(values[SOURCE])
