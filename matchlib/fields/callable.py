"""Fields that speak another convention: other times, other scales, another order of arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matchlib.algebra.records import Condition
from matchlib.algebra.rows import Scalar, scaled
from matchlib.errors import SettingError, nearest

__all__ = ["CallableField"]

ARGUMENTS = ("state", "time", "label", "source")
Schedule = Callable[[Tensor], Tensor] | float


def _at(schedule: Schedule, time: Tensor) -> Scalar:
    return float(schedule) if isinstance(schedule, int | float) else schedule(time)


class CallableField(nn.Module):
    """``field(state, t, condition) = output(t) fn(latent(t) state, time(t), ...)``.

    A network that is reached through a closure is not a part of this module: it is neither moved nor copied with it. Give the network
    itself as ``fn``, or keep it as an attribute of a module.

    Args:
        fn: a module or function.
        arguments: names, among state, time, label and source, of what ``fn`` takes by position, in its own order. A time is given as
            ``(b,)``; a label that is missing as None.
        time: maps t in [0, 1], ``(b,)`` with t = 0 at the data, to ``fn``'s time: ``lambda t: 1 - t`` where it runs the other way,
            ``lambda t: 999 * t`` for a thousand steps.
        latent: what a state is multiplied by on the way in; a number, or a function of t.
        output: what the answer is multiplied by; -1 for a velocity along a time that runs the other way.

    Attributes:
        core: as in ``Preconditioned``.

    Raises:
        SettingError: an argument that is none of the four.
    """

    core: ClassVar[str] = "fn"

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        arguments: Sequence[str] = ("state", "time"),
        time: Callable[[Tensor], Tensor] = torch.clone,
        latent: Schedule = 1.0,
        output: Schedule = 1.0,
    ) -> None:
        super().__init__()
        for name in arguments:
            if name not in ARGUMENTS:
                raise SettingError(f"arguments are names among {', '.join(ARGUMENTS)}, got {name!r}{nearest(name, ARGUMENTS)}")
        self.fn, self.arguments = fn, tuple(arguments)
        self.time, self.latent, self.output = time, latent, output

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns the prediction, shape ``(b, *event)``."""
        arguments = {
            "state": self._scale(self.latent, time, state),
            "time": self.time(time),
            "label": condition.label,
            "source": condition.source,
        }
        answer = self.fn(*(arguments[name] for name in self.arguments))
        return self._scale(self.output, time, answer)

    @staticmethod
    def _scale(schedule: Schedule, time: Tensor, x: Tensor) -> Tensor:
        scalar = _at(schedule, time)
        return x if isinstance(scalar, float) and scalar == 1.0 else scaled(scalar, x)
