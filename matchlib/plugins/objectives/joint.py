"""Several predictions learned together by one field.

References:
    Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
    https://arxiv.org/abs/2303.08797 (velocity and denoiser, which together determine drift and score)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row
from matchlib.errors import IncompatibleError, SettingError
from matchlib.registries import objectives

__all__ = ["Joint"]


@objectives.register("joint")
@dataclass(frozen=True)
class Joint(Objective):
    """One field with a head for each of several rows; each is weighted as it is on its own, and any of them can be distilled.

    Args:
        parts: registered names of the rows, at least two, each once.

    Raises:
        SettingError: fewer than two, or one twice, or one that is joint itself.
    """

    examples: ClassVar[tuple[dict[str, Any], ...]] = ({"parts": ("data", "noise")}, {"parts": ("velocity", "score")})
    parts: tuple[str, ...] = ("path-velocity", "noise")

    def __post_init__(self) -> None:
        names = (self.parts,) if isinstance(self.parts, str) else tuple(self.parts)
        if len(set(names)) < max(2, len(names)) or objectives.name_of(self) in names:
            raise SettingError(f"joint: parts are at least two different rows, got {', '.join(names) or 'none'}")

    @property
    def heads(self) -> tuple[Objective, ...]:
        return tuple(objectives[name]() for name in self.parts)

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        raise IncompatibleError(f"joint is several rows, {' and '.join(self.parts)}; ask for one of them")
