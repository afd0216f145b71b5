"""Codecs: between data and the latents that a model of latents is trained on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from torch import Tensor

__all__ = ["Codec"]


class Codec(ABC):
    """Maps data to latents and back; used when data are prepared, and where samples are shown, scored as images or handed over.

    A plugin is a class whose keyword arguments are its settings, by which it is recorded beside the latents.

    Attributes:
        limits: least and largest number of what ``decode`` returns.
        component: name and class of the part of a pipeline of diffusers that decodes; None where there is none.
    """

    limits: ClassVar[tuple[float, float]] = (0.0, 255.0)
    component: ClassVar[tuple[str, str] | None] = None

    def check(self) -> None:  # noqa: B027
        """Opens what the codec needs, before any work is done.

        Raises:
            MatchlibError: it is not there, has changed, or cannot be read.
        """

    def pinned(self) -> Codec:
        """Returns the codec with settings that mean the same from any folder and tell whether its files change."""
        return self

    def at(self, folder: Path) -> Codec:
        """Returns the codec with relative paths taken from a folder."""
        return self

    def saved(self, folder: Path, name: str) -> Codec:
        """Copies what it needs to ``folder/name``, and returns the codec whose path, from ``folder``, is ``name``."""
        return self

    @abstractmethod
    def encode(self, data: Tensor) -> Tensor:
        """Returns the latents of data, ``(n, *event) -> (n, *latent)``, float32, as a model takes them.

        Raises:
            DataError: the data are of another kind.
        """

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Returns the data of latents, ``(n, *latent) -> (n, *event)``, float32, on their device.

        Raises:
            IncompatibleError: the latents have another shape.
        """
