"""Heads: the predictions that one field makes side by side.

A field with one head answers with a tensor ``(b, *event)``; with k > 1 heads they stand along a new axis, ``(b, k, *event)``. This file is
the one place that knows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["join_heads", "joined_shape", "split_heads"]


def join_heads(parts: Sequence[Tensor]) -> Tensor:
    """Returns k tensors ``(b, *event)`` as one answer."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts), 1)


def split_heads(answer: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Returns the k tensors ``(b, *event)`` of an answer; the inverse of ``join_heads``."""
    return (answer,) if heads == 1 else answer.unbind(1)


def joined_shape(shape: Sequence[int], heads: int) -> tuple[int, ...]:
    """Returns the event shape of an answer of k heads for events of ``shape``."""
    return tuple(shape) if heads == 1 else (heads, *shape)
