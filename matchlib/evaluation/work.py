"""Long work that can be watched and interrupted between its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

__all__ = ["Work"]

T = TypeVar("T")


class Work:
    """Tells of every part of some work before it begins.

    Args:
        on_part: called with what is being done, how many of its parts are done and how many there are; it may raise to interrupt the work.
    """

    def __init__(self, on_part: Callable[[str, int, int], None] = lambda what, done, total: None) -> None:
        self.on_part = on_part

    def over(self, parts: Sequence[T], what: str) -> Iterator[T]:
        """Yields the parts."""
        for i, part in enumerate(parts):
            self.on_part(what, i, len(parts))
            yield part
        self.on_part(what, len(parts), len(parts))
