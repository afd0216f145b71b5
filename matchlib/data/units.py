"""Units: what is data in model units, and back."""

from __future__ import annotations

from torch import Tensor

__all__ = ["FAR", "HUGE", "TINY", "converted", "exact", "standardized"]

FAR = 256.0  # distance from zero, in standard deviations, beyond which float32 keeps too little of the data
HUGE, TINY = 1e30, 1e-30  # numbers beyond are near the limits of float32


def standardized(x: Tensor, shift: float, scale: float) -> Tensor:
    """Returns data in the model units ``data = shift + scale * model``, float32."""
    return ((x - shift) / scale).float()


def exact(x: Tensor, shift: float, scale: float) -> Tensor:
    """Returns samples of model units in a type that holds them in data units as well."""
    return x if TINY < scale < HUGE and abs(shift) < FAR * scale else x.double()


def converted(x: Tensor, old: tuple[float, float], new: tuple[float, float]) -> Tensor:
    """Returns samples in other model units, each given as (shift, scale); float32."""
    return ((old[0] - new[0] + old[1] * exact(x, *old)) / new[1]).float()
