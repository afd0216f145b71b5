"""Families: named matching models with the settings that suit them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from matchlib.algebra.model import MatchingModel
from matchlib.distillation.defaults import Defaults

__all__ = ["Family"]


class Family(ABC):
    """A function of settings to a matching model."""

    @abstractmethod
    def model(self, *, paired: bool) -> MatchingModel:
        """Returns the family's model for data that come with a source (``paired``) or without."""

    def network(self, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the spec of the teacher's network: that of the settings, unless the family has its own."""
        return spec

    @abstractmethod
    def defaults(self, *, paired: bool) -> Defaults:
        """Returns what the family recommends for sampling and distilling."""
