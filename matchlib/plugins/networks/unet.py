"""A compact U-Net for images.

References:
    Ronneberger, Fischer, Brox, "U-Net", 2015, https://arxiv.org/abs/1505.04597
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239 (residual blocks with time)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from matchlib.algebra.records import Condition
from matchlib.errors import IncompatibleError, SettingError
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.plugins.networks.embedding import Embedding, run
from matchlib.registry import networks

__all__ = ["UNet"]


SMALLEST = 16  # side of an image, in pixels, that a U-Net is recommended for


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _groups(channels: int) -> int:
    return next(g for g in (8, 4, 2, 1) if channels % g == 0)


class _Block(nn.Module):
    """Two convolutions with group normalisation, modulated by the embedding."""

    def __init__(self, inside: int, outside: int, embedding: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(_groups(inside), inside), nn.GroupNorm(_groups(outside), outside)])
        self.first = nn.Conv2d(inside, outside, 3, padding=1)
        self.second = _zero(nn.Conv2d(outside, outside, 3, padding=1))
        self.modulate = nn.Linear(embedding, 2 * outside)
        self.skip = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = self.modulate(embedded)[:, :, None, None].chunk(2, 1)
        h = self.first(functional.silu(self.norms[0](x)))
        h = self.second(functional.silu(torch.addcmul(shift, self.norms[1](h), 1 + scale)))
        return self.skip(x) + h


class _Attention(nn.Module):
    """Self-attention over positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.query = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.query(self.norm(x)).flatten(2).mT.unsqueeze(1).chunk(3, -1)
        mixed = functional.scaled_dot_product_attention(*(part.contiguous() for part in parts))
        return x + self.out(mixed.squeeze(1).mT.reshape(x.shape))


@networks.register("unet")
class UNet(nn.Module):
    """Levels of residual blocks, each half the resolution of the one above, with attention at the lowest.

    Args:
        spec: an event shape ``(channels, height, width)``; sides need not be divisible by the scale (odd sides are rounded up).
        channels: at the highest resolution, >= 1.
        multipliers: channels of each level relative to the first, at least one.
        blocks: residual blocks a level, >= 1.
        patch: side of the squares of pixels that become channels (space to depth), >= 1; sides that it does not divide are padded.

    Raises:
        IncompatibleError: the event is no image.
    """

    @staticmethod
    def sizes(spec: NetworkSpec) -> list[dict[str, Any]]:
        """Returns settings for a kind of event, from small to large; none for images whose sides are below 16."""
        if len(spec.shape) != 3 or min(spec.shape[1:]) < SMALLEST:
            return []
        levels = max(2, round(math.log2(min(spec.shape[1:]) / 7)))  # down to about 7x7
        multipliers = [min(2**i, 4) for i in range(levels)]
        return [{"channels": channels, "multipliers": multipliers} for channels in (32, 64)]

    def __init__(
        self, spec: NetworkSpec, *, channels: int = 32, multipliers: tuple[int, ...] = (1, 2), blocks: int = 1, patch: int = 1
    ) -> None:
        super().__init__()
        if len(spec.shape) != 3:
            raise IncompatibleError(f"unet needs events of shape (channels, height, width), got {spec.shape}; use mlp")
        if min(channels, blocks, patch) < 1 or not multipliers or min(multipliers) < 1:
            raise SettingError(
                f"unet: channels, blocks, patch and multipliers must be at least 1, got {channels}, {blocks}, {patch}, {multipliers}"
            )
        self.checkpointing = False
        self.patch = patch
        width, colours = 4 * channels, spec.shape[0] * patch * patch
        self.embed = Embedding(spec, width)
        self.enter = nn.Conv2d(colours * (2 if spec.sees_source else 1), channels, 3, padding=1)
        sizes = [channels * m for m in multipliers]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        carried, now = [], channels
        for size in sizes:
            level = nn.ModuleList(_Block(now if i == 0 else size, size, width) for i in range(blocks))
            self.down.append(level)
            carried += [size] * blocks
            now = size
        self.middle = nn.ModuleList([_Block(now, now, width), _Block(now, now, width)])
        self.attend = _Attention(now)
        for size in reversed(sizes):
            level = nn.ModuleList()
            for _ in range(blocks):
                level.append(_Block(now + carried.pop(), size, width))
                now = size
            self.up.append(level)
        self.norm = nn.GroupNorm(_groups(now), now)
        self.shape = spec.output_shape
        self.leave = _zero(nn.Conv2d(now, colours * spec.heads, 3, padding=1))

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """``(b, c, h, w), (b,) -> (b, *answer)``, answer ``(c, h, w)`` or ``(heads, c, h, w)``."""
        x = state if condition.source is None else torch.cat([state, condition.source], 1)
        height, width = x.shape[2:]
        x = functional.pixel_unshuffle(functional.pad(x, (0, -width % self.patch, 0, -height % self.patch)), self.patch)
        embedded = functional.silu(self.embed(time, condition))
        x, carried = self.enter(x), []
        for i, level in enumerate(self.down):
            if i:
                x = functional.avg_pool2d(x, 2, ceil_mode=True)
            for block in level:  # type: ignore[attr-defined]
                x = run(block, x, embedded, keep=not self.checkpointing)
                carried.append(x)
        x = self.middle[1](self.attend(self.middle[0](x, embedded)), embedded)
        for level in self.up:
            for block in level:  # type: ignore[attr-defined]
                other = carried.pop()
                if x.shape[2:] != other.shape[2:]:
                    x = functional.interpolate(x, size=other.shape[2:], mode="nearest")
                x = run(block, torch.cat([x, other], 1), embedded, keep=not self.checkpointing)
        x = functional.pixel_shuffle(self.leave(functional.silu(self.norm(x))), self.patch)[:, :, :height, :width]
        return x.reshape(x.shape[0], *self.shape)
