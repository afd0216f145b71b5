"""Embeddings of time and condition that the built-in networks share, and recomputed blocks."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from matchlib.algebra.records import Condition
from matchlib.fields.preconditioned import NetworkSpec

__all__ = ["Embedding", "label_indices", "label_values", "run"]


class Embedding(nn.Module):
    """Embeds (time, label): ``(b,), Condition -> (b, width)``.

    A missing label (None, -1 or NaN) is a class of its own, or zeros with a flag, so that one network can be asked with and without.

    Args:
        spec: says which labels there are.
        width: of the result.
        frequencies: of sine and cosine, geometric from pi/2 to 32 pi radians per unit time.

    References:
        Vaswani et al., "Attention Is All You Need", 2017, https://arxiv.org/abs/1706.03762 (sinusoids)
    """

    rates: Tensor

    def __init__(self, spec: NetworkSpec, width: int, frequencies: int = 32) -> None:
        super().__init__()
        low, high = math.log10(0.5 * math.pi), math.log10(32 * math.pi)
        self.register_buffer("rates", torch.logspace(low, high, frequencies), persistent=False)
        self.mix = nn.Sequential(nn.Linear(2 * frequencies, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = spec.classes
        self.label: nn.Module | None = None
        if spec.classes is not None:
            self.label = nn.Embedding(spec.classes + 1, width)
        elif spec.label_shape is not None:
            self.label = nn.Linear(math.prod(spec.label_shape) + 1, width)  # and whether it is there

    def forward(self, time: Tensor, condition: Condition) -> Tensor:
        angles = time[:, None] * self.rates.to(time.dtype)
        embedded = self.mix(torch.cat([angles.sin(), angles.cos()], 1))
        return embedded if self.label is None else embedded + self.label(self._label(time, condition.label))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Embedding:
        """Moves the module, whose frequencies keep their numbers: in the type of weights of bf16 they would be other ones."""
        exact = self.rates
        super()._apply(fn, recurse)
        if self.rates.dtype.itemsize < exact.dtype.itemsize:
            self.rates = exact.to(self.rates.device)
        return self

    def _label(self, time: Tensor, label: Tensor | None) -> Tensor:
        if self.classes is not None:
            return label_indices(time, label, self.classes)
        assert isinstance(self.label, nn.Linear)
        return label_values(time, label, self.label.in_features - 1)


def label_indices(time: Tensor, label: Tensor | None, classes: int) -> Tensor:
    """Returns the row of an embedding for each label, shape ``(b,)``; a missing one (None or negative) has the row ``classes``."""
    absent = torch.full(time.shape, classes, device=time.device)
    return absent if label is None else torch.where(label < 0, absent, label)


def label_values(time: Tensor, label: Tensor | None, size: int) -> Tensor:
    """Returns labels that are no classes, with a flag: shape ``(b, size + 1)``; a missing one (None or NaN) is zero in all of them."""
    if label is None:
        return time.new_zeros(time.shape[0], size + 1)
    flat = label.reshape(label.shape[0], -1).to(time.dtype)
    there = ~flat.isnan().any(1, keepdim=True)
    return torch.cat([flat.where(there, 0.0), there.to(time.dtype)], 1)


def run(block: nn.Module, *inputs: Tensor, keep: bool) -> Tensor:
    """Returns ``block(*inputs)``; unless ``keep``, what its gradient needs is computed again in the backward pass.

    References:
        Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016, https://arxiv.org/abs/1604.06174
    """
    return block(*inputs) if keep else checkpoint(block, *inputs, use_reentrant=False)
