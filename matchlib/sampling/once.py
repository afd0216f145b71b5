"""Several questions to a field at one point, answered with one evaluation."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Once"]


class Once(nn.Module):
    """Answers as ``field`` does, and repeats its answer until told to forget it.

    Args:
        field: asked once at each point.
    """

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field
        self.answer: Tensor | None = None

    def forget(self) -> None:
        """The next question is at another point."""
        self.answer = None

    def forward(self, *seen: object) -> Tensor:
        if self.answer is None:
            self.answer = self.field(*seen)
        return self.answer
