"""Data predictions kept within the limits of the data."""

from __future__ import annotations

from torch import Tensor, nn

from matchlib.algebra.records import Condition

__all__ = ["Clipped"]


class Clipped(nn.Module):
    """A field that predicts data, its answers clipped to ``limits``; None leaves them as they are."""

    def __init__(self, field: nn.Module, limits: tuple[float, float] | None) -> None:
        super().__init__()
        self.field, self.limits = field, limits

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        data: Tensor = self.field(state, time, condition)
        return data if self.limits is None else data.clamp(*self.limits)
