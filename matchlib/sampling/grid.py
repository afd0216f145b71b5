"""Time grids: n steps are n + 1 times, from the model's last time to its first."""

from __future__ import annotations

import torch
from torch import Tensor

from matchlib.algebra.times import Times
from matchlib.errors import SettingError

__all__ = ["check_steps", "times_down"]


def check_steps(sampler: str, steps: int) -> None:
    """Refuses a number of steps below one."""
    if steps < 1:
        raise SettingError(f"{sampler}: steps must be at least 1, got {steps}")


def times_down(times: Times, steps: int, like: Tensor) -> Tensor:
    """Returns ``steps + 1`` evenly spaced times from ``times.high`` down to ``times.low``, on the device of ``like``."""
    return torch.linspace(times.high, times.low, steps + 1, dtype=like.dtype, device=like.device)
