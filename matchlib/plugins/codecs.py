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

PIXELS = 1 << 19  # of images that go through a network at once


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

    def _units(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """(shift, scale) of ``latents = (the encoder's - shift) * scale``: of all, or of each channel."""
        config = self._model.config
        shift, scale = float(config.get("shift_factor") or 0.0), float(config.get("scaling_factor") or 1.0)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is None or std is None:
            return shift, scale
        each = [torch.tensor(x, dtype=like.dtype, device=like.device)[:, None, None] for x in (mean, std)]
        return each[0], scale / each[1]

    @torch.no_grad()
    def encode(self, data: Tensor) -> Tensor:
        if data.dtype != torch.uint8 or data.ndim != 4 or data.shape[1] not in (1, 3):
            raise DataError(f"the codec vae encodes 8-bit images of 1 or 3 channels, got {data.dtype} of shape {tuple(data.shape[1:])}")
        model, channels = self._model, self._model.config["in_channels"]
        factor = 2 ** (len(model.config["block_out_channels"]) - 1)
        if any(side % factor for side in data.shape[2:]):
            raise DataError(f"the codec vae needs images whose sides are multiples of {factor}, got {tuple(data.shape[2:])}; choose --size")
        if data.shape[1] not in (1, channels):
            raise DataError(f"the codec vae takes images of {channels} channels, got {data.shape[1]}")
        images = data.to(model.device).float() / 127.5 - 1
        images = images.expand(-1, channels, -1, -1)
        latents = torch.cat([model.encode(part).latent_dist.mode() for part in images.split(_rows(images))])
        shift, scale = self._units(latents)
        return ((latents - shift) * scale).to(data.device)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        model, channels = self._model.to(latents.device), self._model.config["latent_channels"]
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise IncompatibleError(f"the codec vae decodes latents of {channels} channels, got shape {tuple(latents.shape[1:])}")
        shift, scale = self._units(latents.float())
        factor = 2 ** (len(model.config["block_out_channels"]) - 1)
        parts = (latents.float() / scale + shift).split(_rows(latents, factor**2))
        images = [model.decode(part, return_dict=False)[0] for part in parts]
        return ((torch.cat(images) + 1) * 127.5).clamp(*self.limits)


def _rows(x: Tensor, factor: int = 1) -> int:
    """How many images the networks take at once, with ``factor`` pixels for each pixel of ``x``: their activations fill the memory."""
    return max(1, PIXELS // (factor * x.shape[2] * x.shape[3]))


def _digest(folder: Path) -> str:
    """SHA-256 of configuration and weights."""
    return digest_of([folder / "config.json", *sorted(folder.glob("*.safetensors"))])
