"""Codecs of latent models.

References:
    Rombach, Blattmann, Lorenz, Esser, Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", 2022,
    https://arxiv.org/abs/2112.10752
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from matchlib.adapters.components import digest_of, read_component
from matchlib.data.codec import Codec
from matchlib.errors import ArtifactError, DataError, IncompatibleError, SettingError
from matchlib.registry import codecs

__all__ = ["VAE"]

ROWS = 16  # images that are decoded at once


@codecs.register("vae")
@dataclass(frozen=True)
class VAE(Codec):
    """The ``AutoencoderKL`` of a folder of diffusers: latents are the mean of the encoder, shifted and scaled as its configuration says.

    Args:
        path: the folder, or that of a pipeline with the folder ``vae``.
        digest: SHA-256 of configuration and weights; a folder with others is refused. Empty for any.
    """

    component: ClassVar[tuple[str, str] | None] = ("vae", "AutoencoderKL")
    path: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise SettingError(f"vae: path is the folder of an AutoencoderKL, got {self.path!r}")

    def at(self, folder: Path) -> VAE:
        return replace(self, path=str(folder / os.path.expanduser(self.path)))

    def saved(self, folder: Path, name: str) -> VAE:
        self._model.save_pretrained(folder / name)
        return replace(self, path=name, digest=_digest(folder / name))

    def pinned(self) -> VAE:
        """Returns the codec with its whole path and the digest of what is there now."""
        return replace(self, path=str(self._folder.absolute()), digest=_digest(self._folder))

    def check(self) -> None:
        _ = self._model

    @property
    def _folder(self) -> Path:
        place = Path(os.path.expanduser(self.path))
        return place / "vae" if (place / "vae" / "config.json").is_file() else place

    @cached_property
    def _model(self) -> Any:
        folder = self._folder
        if not (folder / "config.json").is_file():
            raise ArtifactError(f"the codec vae:{self.path} is not there: no config.json in {folder}")
        if self.digest and _digest(folder) != self.digest:
            raise ArtifactError(f"{folder} has changed since data were encoded with it: restore it")
        return read_component(folder, ["AutoencoderKL"]).requires_grad_(False)

    @property
    def _units(self) -> tuple[float, float]:
        """(shift, scale) of ``latents = (the encoder's - shift) * scale``."""
        config = self._model.config
        return float(config.get("shift_factor") or 0.0), float(config.get("scaling_factor") or 1.0)

    @torch.no_grad()
    def encode(self, data: Tensor) -> Tensor:
        if data.dtype != torch.uint8 or data.ndim != 4 or data.shape[1] not in (1, 3):
            raise DataError(f"the codec vae encodes 8-bit images of 1 or 3 channels, got {data.dtype} of shape {tuple(data.shape[1:])}")
        channels = self._model.config["in_channels"]
        images = data.to(self._model.device).float() / 127.5 - 1
        if images.shape[1] != channels:
            if images.shape[1] != 1:
                raise DataError(f"the codec vae takes images of {channels} channels, got {images.shape[1]}")
            images = images.expand(-1, channels, -1, -1)
        shift, scale = self._units
        latents: Tensor = self._model.encode(images).latent_dist.mode()
        return ((latents - shift) * scale).to(data.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        model, (shift, scale) = self._model.to(latents.device), self._units
        channels = model.config["latent_channels"]
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise IncompatibleError(f"the codec vae decodes latents of {channels} channels, got shape {tuple(latents.shape[1:])}")
        images = [model.decode(part.float() / scale + shift, return_dict=False)[0] for part in latents.split(ROWS)]
        return ((torch.cat(images) + 1) * 127.5).clamp(*self.limits)


def _digest(folder: Path) -> str:
    """SHA-256 of configuration and weights."""
    return digest_of([folder / "config.json", *sorted(folder.glob("*.safetensors"))])
