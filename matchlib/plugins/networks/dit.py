"""A transformer over patches of images.

References:
    Peebles, Xie, "Scalable Diffusion Models with Transformers", 2022, https://arxiv.org/abs/2212.09748
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
from matchlib.plugins.networks.embedding import label_indices, label_values, run
from matchlib.registry import networks

__all__ = ["DiT"]

FREQUENCIES = 256  # of sine and cosine together
SMALLEST = 16  # side of an image, in pixels, that patches are recommended for
LONGEST = 10_000.0  # period, in units of the scaled time over 2 pi


class _TimestepEmbedder(nn.Module):
    """Sines and cosines of ``scale * time``, and two layers: ``(b,) -> (b, width)``."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.mlp = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, time: Tensor) -> Tensor:
        half = torch.arange(FREQUENCIES // 2, device=time.device, dtype=time.dtype)
        angles = self.scale * time[:, None] * torch.exp(half * (-math.log(LONGEST) * 2 / FREQUENCIES))
        return self.mlp(torch.cat([angles.cos(), angles.sin()], 1))


class _LabelEmbedder(nn.Module):
    """A class, or a vector, or neither: ``(b,), label -> (b, width)``; the last class is no class."""

    def __init__(self, spec: NetworkSpec, width: int) -> None:
        super().__init__()
        self.classes = spec.classes
        if spec.classes is not None:
            self.embedding_table = nn.Embedding(spec.classes + 1, width)
        else:
            assert spec.label_shape is not None
            self.project = nn.Linear(math.prod(spec.label_shape) + 1, width)

    def forward(self, time: Tensor, label: Tensor | None) -> Tensor:
        if self.classes is not None:
            return self.embedding_table(label_indices(time, label, self.classes))
        return self.project(label_values(time, label, self.project.in_features - 1))


class _PatchEmbedder(nn.Module):
    """One token for each square patch: ``(b, c, h, w) -> (b, tokens, width)``."""

    def __init__(self, channels: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, patch)
        nn.init.xavier_uniform_(self.proj.weight.view(width, -1))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).mT


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        inner = int(width * ratio)
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift[:, None], x, 1 + scale[:, None])


def _modulation(width: int, parts: int) -> nn.Sequential:
    """``parts`` vectors from the embedding, zero at first (adaLN-zero)."""
    layers = nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))
    nn.init.zeros_(layers[1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(layers[1].bias)  # type: ignore[arg-type]
    return layers


class _Block(nn.Module):
    """Attention and an MLP, each normalised, modulated and gated by the embedding."""

    def __init__(self, width: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(2))
        self.attn, self.mlp = _Attention(width, heads), _MLP(width, ratio)
        self.adaLN_modulation = _modulation(width, 6)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(embedded).chunk(6, 1)
        x = torch.addcmul(x, gate1[:, None], self.attn(_modulated(self.norm1(x), shift1, scale1)))
        return torch.addcmul(x, gate2[:, None], self.mlp(_modulated(self.norm2(x), shift2, scale2)))


class _FinalLayer(nn.Module):
    """From tokens to the pixels of their patches, zero at first."""

    def __init__(self, width: int, pixels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, pixels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        return self.linear(_modulated(self.norm_final(x), *self.adaLN_modulation(embedded).chunk(2, 1)))


@networks.register("dit")
class DiT(nn.Module):
    """Patches as tokens, with transformer blocks modulated by time and label (adaLN-zero).

    The weights have the names and shapes of the published DiT and SiT networks. Those sizes are S (width 384, depth 12, heads 6),
    B (768, 12, 12), L (1024, 24, 16) and XL (1152, 28, 16).

    Args:
        spec: an event shape ``(channels, height, width)``; sides that a patch does not divide are padded with zeros.
        patch: side of a patch in pixels, >= 1.
        width: of a token, a multiple of ``heads`` and of 4.
        depth: number of blocks, >= 1.
        heads: of each attention, >= 1.
        mlp_ratio: inner width of the MLPs over ``width``.
        time_scale: multiplies t, in [0, 1], before its sines: 1000 for DiT, 1 for SiT.

    Raises:
        IncompatibleError: the event is no image.
        SettingError: a size that does not fit.
    """

    pos_embed: Tensor

    @staticmethod
    def sizes(spec: NetworkSpec) -> list[dict[str, Any]]:
        """Returns settings for a kind of event, from small to large; none for images whose sides are below 16."""
        if len(spec.shape) != 3 or min(spec.shape[1:]) < SMALLEST:
            return []
        patch = max(2, min(spec.shape[1:]) // 8)  # about 8x8 tokens
        return [{"patch": patch, "width": 64 * heads, "depth": 6, "heads": heads} for heads in (2, 4)]

    def __init__(
        self,
        spec: NetworkSpec,
        *,
        patch: int = 4,
        width: int = 192,
        depth: int = 6,
        heads: int = 3,
        mlp_ratio: float = 4.0,
        time_scale: float = 1000.0,
    ) -> None:
        super().__init__()
        if len(spec.shape) != 3:
            raise IncompatibleError(f"dit needs events of shape (channels, height, width), got {spec.shape}; use mlp")
        if min(patch, width, depth, heads) < 1 or width % heads or width % 4 or int(width * mlp_ratio) < 1:
            raise SettingError(
                "dit: patch, width, depth and heads must be at least 1, and width a multiple of heads and of 4, "
                f"got {patch}, {width}, {depth}, {heads}, mlp_ratio {mlp_ratio:g}"
            )
        self.checkpointing = False
        channels, *sides = spec.shape
        self.patch, self.shape = patch, spec.output_shape
        rows, columns = (math.ceil(side / patch) for side in sides)
        self.padded = (rows * patch, columns * patch)
        self.grid = (rows, columns)
        self.x_embedder = _PatchEmbedder(channels * (2 if spec.sees_source else 1), width, patch)
        self.t_embedder = _TimestepEmbedder(width, time_scale)
        labelled = spec.classes is not None or spec.label_shape is not None
        self.y_embedder = _LabelEmbedder(spec, width) if labelled else None
        self.register_buffer("pos_embed", _positions(rows, columns, width)[None])
        self.blocks = nn.ModuleList(_Block(width, heads, mlp_ratio) for _ in range(depth))
        self.final_layer = _FinalLayer(width, patch * patch * channels * spec.heads)

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """``(b, c, h, w), (b,) -> (b, *answer)``, answer ``(c, h, w)`` or ``(heads, c, h, w)``."""
        x = state if condition.source is None else torch.cat([state, condition.source], 1)
        height, width = x.shape[2:]
        x = functional.pad(x, (0, self.padded[1] - width, 0, self.padded[0] - height))
        embedded = self.t_embedder(time)
        if self.y_embedder is not None:
            embedded = embedded + self.y_embedder(time, condition.label)
        x = self.x_embedder(x) + self.pos_embed.to(x.dtype)
        for block in self.blocks:
            x = run(block, x, embedded, keep=not self.checkpointing)
        x = self.final_layer(x, embedded).unflatten(2, (self.patch, self.patch, -1)).unflatten(1, self.grid)
        x = x.permute(0, 5, 1, 3, 2, 4).reshape(x.shape[0], -1, *self.padded)[:, :, :height, :width]
        return x.reshape(x.shape[0], *self.shape)


def _positions(rows: int, columns: int, width: int) -> Tensor:
    """Returns sines and cosines of the column, then of the row, of every patch: ``(rows * columns, width)``."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    rates = torch.exp(torch.arange(width // 4, dtype=torch.float64) * (-math.log(LONGEST) * 4 / width))
    parts = []
    for place in (column, row):
        angles = place.flatten().double()[:, None] * rates
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, 1).float()
