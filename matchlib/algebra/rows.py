"""Rows: linear functionals of the three latents (data, source, noise), with coefficients that depend on time.

``state = a(t) data + b(t) source + c(t) noise``, and every prediction of the field is another row of the same three latents. A
coefficient is a tensor of shape ``(b,)`` or a plain float; the float ``0.0`` means *identically zero*, and its latent is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Coefficients", "Row", "Scalar", "expand", "is_zero", "join_heads", "joined_shape", "plus", "scaled", "split_heads"]

Scalar = Tensor | float


def expand(scalar: Tensor, like: Tensor) -> Tensor:
    """Returns ``scalar`` of shape ``(b,)`` viewed as ``(b, 1, ..., 1)``; the one place where time meets event dimensions.

    Args:
        scalar: shape ``(b,)``.
        like: shape ``(b, *event)``.

    Raises:
        ValueError: ``scalar`` is not one number per sample.
    """
    if scalar.shape != like.shape[:1]:
        raise ValueError(f"expected one time per sample, shape ({like.shape[0]},), got {tuple(scalar.shape)}")
    return scalar.to(like.dtype).view(-1, *(1,) * (like.ndim - 1))


def scaled(scalar: Scalar, latent: Tensor) -> Tensor:
    """Returns ``scalar * latent``, one scalar per sample."""
    return expand(scalar, latent) * latent if isinstance(scalar, Tensor) else scalar * latent


def plus(total: Tensor, scalar: Scalar, latent: Tensor) -> Tensor:
    """Returns ``total + scalar * latent``, one scalar per sample, in one pass."""
    if isinstance(scalar, Tensor):
        return torch.addcmul(total, expand(scalar, latent), latent)
    return torch.add(total, latent, alpha=scalar)


def is_zero(scalar: Scalar) -> bool:
    """Returns whether a coefficient is the number 0.0, that is, identically zero."""
    return not isinstance(scalar, Tensor) and scalar == 0.0


def _times(left: Scalar, right: Scalar) -> Scalar:
    """The product, without an operation where a factor is exactly zero or one."""
    if is_zero(left) or is_zero(right):
        return 0.0
    if not isinstance(left, Tensor) and left == 1.0:
        return right
    return left if not isinstance(right, Tensor) and right == 1.0 else left * right


def _plus(left: Scalar, right: Scalar) -> Scalar:
    """The sum, without an operation where a term is exactly zero."""
    return right if is_zero(left) else left if is_zero(right) else left + right


def _full(x: Scalar, t: Tensor) -> Tensor:
    """A coefficient as float64, shape ``(b,)``; a constant is filled in on the device, which waits for nothing."""
    return x.double().expand(t.shape) if isinstance(x, Tensor) else torch.full(t.shape, x, dtype=torch.float64, device=t.device)


def _minus(left: Scalar, right: Scalar) -> Scalar:
    return left if is_zero(right) else left - right


@dataclass(frozen=True)
class Row:
    """A linear functional of the latents.

    Args:
        data: coefficient of the data, ``(b,)`` or float, no unit.
        source: coefficient of the source.
        noise: coefficient of the noise.
    """

    data: Scalar = 0.0
    source: Scalar = 0.0
    noise: Scalar = 0.0

    def __call__(self, data: Tensor, source: Tensor, noise: Tensor | None) -> Tensor:
        """Returns the functional's value, shape ``(b, *event)``; a latent with coefficient ``0.0`` is not read and may be None."""
        total: Tensor | None = None
        for scalar, latent in ((self.data, data), (self.source, source), (self.noise, noise)):
            if latent is not None and not is_zero(scalar):
                total = scaled(scalar, latent) if total is None else plus(total, scalar, latent)
        return torch.zeros_like(data) if total is None else total

    def __add__(self, other: Row) -> Row:
        return Row(_plus(self.data, other.data), _plus(self.source, other.source), _plus(self.noise, other.noise))

    def __mul__(self, scalar: Scalar) -> Row:
        return Row(_times(self.data, scalar), _times(self.source, scalar), _times(self.noise, scalar))

    __rmul__ = __mul__

    def dot(self, other: Row) -> Scalar:
        """Returns the dot product of the coefficients."""
        products = (_times(self.data, other.data), _times(self.source, other.source), _times(self.noise, other.noise))
        return _plus(_plus(*products[:2]), products[2])

    def cross(self, other: Row) -> Row:
        """Returns the cross product: its length is the area that the two rows span, computed without cancellation."""
        return Row(
            _minus(_times(self.source, other.noise), _times(self.noise, other.source)),
            _minus(_times(self.noise, other.data), _times(self.data, other.noise)),
            _minus(_times(self.data, other.source), _times(self.source, other.data)),
        )

    def stack(self, t: Tensor) -> Tensor:
        """Returns the coefficients as one float64 tensor of shape ``(b, 3)``."""
        columns = (self.data, self.source, self.noise)
        return torch.stack([_full(x, t) for x in columns], -1)


@dataclass(frozen=True)
class Coefficients:
    """An interpolant at one time per sample: a, b, c, each ``(b,)`` or a constant float, and their derivatives when asked.

    Args:
        time: shape ``(b,)``, in [0, 1].
        a, b, c: coefficients of data, source and noise.
        derivatives: returns (a', b', c'); called only where a derivative is needed.
    """

    time: Tensor
    a: Scalar
    b: Scalar
    c: Scalar
    derivatives: Callable[[], tuple[Scalar, Scalar, Scalar]]

    @property
    def state(self) -> Row:
        """The row of the state: (a, b, c)."""
        return Row(self.a, self.b, self.c)

    @property
    def velocity(self) -> Row:
        """The row of the velocity, the state's time derivative: (a', b', c')."""
        return Row(*self.derivatives())

    @property
    def variance(self) -> Scalar:
        """Variance b^2 + c^2 of the state around ``a data``, for a source of unit variance."""
        return _plus(_times(self.b, self.b), _times(self.c, self.c))


def join_heads(parts: Sequence[Tensor]) -> Tensor:
    """Returns k tensors ``(b, *event)`` as one answer."""
    return parts[0] if len(parts) == 1 else torch.stack(list(parts), 1)


def split_heads(answer: Tensor, heads: int) -> tuple[Tensor, ...]:
    """Returns the k tensors ``(b, *event)`` of an answer; the inverse of ``join_heads``."""
    return (answer,) if heads == 1 else answer.unbind(1)


def joined_shape(shape: Sequence[int], heads: int) -> tuple[int, ...]:
    """Returns the event shape of an answer of k heads for events of ``shape``."""
    return tuple(shape) if heads == 1 else (heads, *shape)
