"""Named conditions, such as a text and its pooled embedding, in one label; and what stands for a label that is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.errors import IncompatibleError, SettingError

__all__ = ["Conditioned", "Conditions", "with_nothing"]


class Conditions:
    """Conditions by name, side by side in the numbers of a label, so that data, losses and samplers know of one label.

    Args:
        shapes: of each condition of a sample, by name, in their order.

    Raises:
        SettingError: there are none, or a size in a shape is not positive; () is one number.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.shapes = {str(name): tuple(shape) for name, shape in shapes.items()}
        if not self.shapes or any(size < 1 for shape in self.shapes.values() for size in shape):
            raise SettingError(f"conditions are shapes by name, such as text=(77, 768), got {dict(shapes)}")

    @property
    def size(self) -> int:
        """Numbers in a label."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def pack(self, **conditions: Any) -> Tensor:
        """Returns the labels of conditions, each ``(n, *shape)``: float32, ``(n, size)``.

        Raises:
            IncompatibleError: a name is missing or unknown, or a shape is another.
        """
        if conditions.keys() != self.shapes.keys():
            raise IncompatibleError(f"conditions are {', '.join(self.shapes)}, got {', '.join(conditions) or 'none'}")
        tensors = {name: torch.as_tensor(conditions[name], dtype=torch.float32) for name in self.shapes}
        for name, x in tensors.items():
            if tuple(x.shape[1:]) != self.shapes[name]:
                raise IncompatibleError(f"the condition {name} has shape {self.shapes[name]} for a sample, got {tuple(x.shape[1:])}")
        return torch.cat([x.reshape(len(x), -1) for x in tensors.values()], 1)

    def unpack(self, label: Tensor) -> dict[str, Tensor]:
        """Returns the conditions of labels ``(n, size)``; the inverse of ``pack``."""
        if tuple(label.shape[1:]) != (self.size,):
            raise IncompatibleError(f"a label of {', '.join(self.shapes)} has {self.size} numbers, got shape {tuple(label.shape[1:])}")
        parts = label.split([math.prod(shape) for shape in self.shapes.values()], 1)
        pairs = zip(self.shapes.items(), parts, strict=True)
        return {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in pairs}  # no len: it may be traced


class Conditioned(nn.Module):
    """``net(state, time, label)`` of a callable that takes its conditions by name.

    Args:
        fn: called as ``fn(state, time, name=..., ...)``; a module is moved and saved with this one.
        conditions: in a label.
        nothing: the null condition, each part of its shape, such as the embeddings of an empty text; guidance asks with
            them. None if labels are never missing.
    """

    nothing: Tensor | None

    def __init__(self, fn: Callable[..., Any], conditions: Conditions, nothing: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.fn, self.conditions = fn, conditions
        packed = None if nothing is None else conditions.pack(**{name: torch.as_tensor(x)[None] for name, x in nothing.items()})
        self.register_buffer("nothing", None if packed is None else packed[0])

    def forward(self, state: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        """Returns the prediction; labels that are None as a whole, or NaN for a sample, are ``nothing``.

        Raises:
            IncompatibleError: one is None, and ``nothing`` is not known.
        """
        label = with_nothing(label, self.nothing, state.shape[0])  # len() would fix it for torch.export
        answer: Tensor = self.fn(state, time, **self.conditions.unpack(label))
        return answer


def with_nothing(label: Tensor | None, nothing: Tensor | None, n: int) -> Tensor:
    """Returns ``n`` labels with ``nothing`` in the place of those that are missing: None as a whole, or NaN for a sample.

    Raises:
        IncompatibleError: all are missing, and ``nothing`` is not known.
    """
    if nothing is not None:
        rows = nothing.expand(n, *nothing.shape)
        label = rows if label is None else torch.where(label.isnan(), rows, label)
    if label is None:
        raise IncompatibleError("the network was asked without a label, and its null condition is not known: give nothing=")
    return label
