"""Randomness as a pure function of (seed, stream, step): a resumed run draws what an uninterrupted one would.

References:
    Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models", 2023, https://arxiv.org/abs/2312.02696 (per-step
    seeding in the accompanying code)
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch

__all__ = ["Streams"]

MASK = (1 << 64) - 1


def _mix(x: int) -> int:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): every input bit reaches every output bit."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@dataclass(frozen=True)
class Streams:
    """Named random streams of one run.

    Args:
        seed: of the run.
        device: where the random numbers are drawn.
    """

    seed: int
    device: torch.device

    def __call__(self, stream: str, step: int = 0) -> torch.Generator:
        """Returns a fresh generator for one step of one stream."""
        key = _mix(_mix(_mix(self.seed & MASK) ^ zlib.crc32(stream.encode())) ^ step)
        return torch.Generator(self.device).manual_seed(key >> 1)
