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
FACTORS = {"latent": "state", "output": "answer"}
Schedule = Callable[[Tensor], Tensor] | float


def _at(schedule: Schedule, time: Tensor) -> Scalar:
    return float(schedule) if isinstance(schedule, int | float) else schedule(time)


class CallableField(nn.Module):
    """``field(state, t, condition) = output(t) fn(latent(t) state, time(t), ...)``.

    Both factors multiply: a network that wants its state divided by s has ``latent=1 / s``. A network that is reached through a closure
    is not a part of this module: it is neither moved nor copied with it. Give the network itself as ``fn``, or keep it as
    an attribute of a module.

    Args:
        fn: a module or function.
        arguments: names, among state, time, label and source, of what ``fn`` takes by position, in its own order. A time is given as
            ``(b,)``. A label that is missing, because the data have none or because guidance asks without it, is None.
        time: maps t in [0, 1], ``(b,)`` with t = 0 at the data, to ``fn``'s time: ``lambda t: 1 - t`` where it runs the other way,
            ``lambda t: 1000 * t - 1`` for the levels 0 to 999 of DDPM.
        latent: what a state is multiplied by on the way in: a number, or a function of t, ``(b,)`` to ``(b,)``.
        output: what the answer is multiplied by, a number or a function of t; -1 for a velocity along a time that runs the other way.

    Attributes:
        core: as in ``Preconditioned``.

    Raises:
        SettingError: an argument that is none of the four, a ``time`` that is no function, or a factor that is neither number nor function.
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
        if not callable(time):
            raise SettingError(f"time is a function from t to the network's time, for example lambda t: 1000 * t - 1, got {time!r}")
        for name, factor in (("latent", latent), ("output", output)):
            if not (callable(factor) or isinstance(factor, int | float)):
                raise SettingError(f"{name} is a number, or a function of t, that multiplies the {FACTORS[name]}, got {factor!r}")
        self.fn, self.arguments = fn, tuple(arguments)
        self.time, self.latent, self.output = time, latent, output
        self.precision: torch.dtype | None = None  # as in ``Preconditioned``

    @property
    def takes_label(self) -> bool:
        """Whether ``fn`` is given labels."""
        return "label" in self.arguments

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns the prediction, shape ``(b, *event)``."""
        arguments = {
            "state": self._scale(self.latent, time, state),
            "time": self.time(time),
            "label": condition.label,
            "source": condition.source,
        }
        return self._scale(self.output, time, self._answer([arguments[name] for name in self.arguments], state))

    def _answer(self, arguments: list[Tensor | None], state: Tensor) -> Tensor:
        if self.precision is None:
            answer: Tensor = self.fn(*arguments)
            return answer
        with torch.autocast(state.device.type, self.precision):
            return self.fn(*arguments).to(state.dtype)

    @staticmethod
    def _scale(schedule: Schedule, time: Tensor, x: Tensor) -> Tensor:
        scalar = _at(schedule, time)
        return x if isinstance(scalar, float) and scalar == 1.0 else scaled(scalar, x)
