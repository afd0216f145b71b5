"""Exact teachers: the Gaussian mixture that fits the data, or a given one, in place of a trained network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from matchlib.algebra.model import MatchingModel
from matchlib.distillation.family import Family, Recipe
from matchlib.registries import families

__all__ = ["GaussianFamily"]


@families.register("gaussian")
@dataclass(frozen=True)
class GaussianFamily(Family):
    """Another family's model with the exact field of a Gaussian mixture as the teacher: nothing is trained, and the optimum is known.

    Args:
        like: name of the family whose model and recipe are taken.
        law: settings of the network ``gaussian``: ``components`` of a fit to the data, or ``mean`` and ``std`` of a given law.
    """

    like: str = "flow"
    law: Mapping[str, Any] = field(default_factory=dict)

    def model(self, *, paired: bool) -> MatchingModel:
        return families[self.like]().model(paired=paired)

    def recipe(self, *, paired: bool) -> Recipe:
        return families[self.like]().recipe(paired=paired)

    def network(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"name": "gaussian", **self.law}
