"""The Brownian bridge between data and source.

References:
    Shi, De Bortoli, Campbell, Doucet, "Diffusion Schrödinger Bridge Matching", 2023, https://arxiv.org/abs/2303.16852
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.algebra.pinned import PinnedInterpolant
from matchlib.errors import SettingError
from matchlib.registries import interpolants

__all__ = ["BrownianBridge"]


@interpolants.register("brownian-bridge")
@dataclass(frozen=True)
class BrownianBridge(PinnedInterpolant):
    """a = 1 - t, b = t, c^2 = epsilon t (1 - t): sqrt(epsilon) times a Brownian motion, pinned at both ends.

    The velocity is singular at both ends (c' is infinite).

    Args:
        epsilon: variance of the prior process at t = 1, > 0.
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"epsilon": 0.3},)
    epsilon: float = 1.0

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise SettingError(f"brownian-bridge: epsilon must be positive, got {self.epsilon}")

    def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), self.epsilon * t
