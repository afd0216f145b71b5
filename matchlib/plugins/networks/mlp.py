"""A residual multilayer perceptron for any event shape.

References:
    He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, https://arxiv.org/abs/1512.03385
    Peebles, Xie, "Scalable Diffusion Models with Transformers", 2022, https://arxiv.org/abs/2212.09748 (modulation that starts at identity)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from matchlib.algebra.records import Condition
from matchlib.errors import SettingError
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.plugins.networks.embedding import Embedding, run
from matchlib.registry import networks

__all__ = ["ResidualMLP"]


class _Block(nn.Module):
    """``x + out(silu(norm(x) W (1 + scale) + shift))``, scale and shift from the embedding, ``out`` zero at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return x + self.outer(functional.silu(torch.addcmul(shift, self.inner(self.norm(x)), scale)))


@networks.register("mlp")
class ResidualMLP(nn.Module):
    """Flattens the event, adds the source if it is seen, and runs residual blocks modulated by time and label.

    Args:
        spec: shapes and conditions.
        width: of the hidden layers, >= 1.
        depth: number of residual blocks, >= 1.
        embedding: width of the embedding of time and label, >= 1.
        skip: whether every coordinate of the state also reaches the answer directly, times a factor from the embedding. A velocity
            holds all of the noise, which hidden layers narrower than the event cannot pass on.
    """

    @staticmethod
    def sizes(spec: NetworkSpec) -> list[dict[str, Any]]:
        """Returns settings for a kind of event, from small to large; the first is the default."""
        size = math.prod(spec.shape)
        smallest = 192 if size <= 128 else 384 if size <= 1024 else 768
        return [{"width": smallest * k, "depth": 3 if smallest * k == 192 else 4} for k in (1, 2)]

    def __init__(self, spec: NetworkSpec, *, width: int = 192, depth: int = 3, embedding: int = 64, skip: bool = True) -> None:
        super().__init__()
        if min(width, depth, embedding) < 1:
            raise SettingError(f"mlp: width, depth and embedding must be at least 1, got {width}, {depth}, {embedding}")
        size = math.prod(spec.shape)
        self.checkpointing = False
        self.embed = Embedding(spec, embedding)
        self.enter = nn.Linear(size * (2 if spec.sees_source else 1), width)
        self.modulate = nn.Linear(embedding, 2 * depth * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.shape = spec.output_shape
        self.leave = nn.Linear(width, math.prod(self.shape))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.skip = nn.Linear(embedding, math.prod(self.shape)) if skip else None
        if self.skip is not None:
            nn.init.zeros_(self.skip.weight)
            nn.init.zeros_(self.skip.bias)

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """``(b, *event), (b,) -> (b, *answer)``."""
        x = state.flatten(1)
        if condition.source is not None:
            x = torch.cat([x, condition.source.flatten(1)], 1)
        embedded = functional.silu(self.embed(time, condition))
        scales, shifts = self.modulate(embedded).chunk(2, 1)
        x = self.enter(x)
        width = x.shape[1]
        for block, scale, shift in zip(self.blocks, scales.split(width, 1), shifts.split(width, 1), strict=True):
            x = run(block, x, 1 + scale, shift, keep=not self.checkpointing)
        answer = self.leave(functional.silu(x)).unflatten(1, self.shape)
        if self.skip is None:
            return answer
        heads = state if answer.ndim == state.ndim else state[:, None]
        return torch.addcmul(answer, self.skip(embedded).unflatten(1, self.shape), heads)
