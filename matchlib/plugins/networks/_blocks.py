"""Running the blocks of a network.

References:
    Chen, Xu, Zhang, Guestrin, "Training Deep Nets with Sublinear Memory Cost", 2016, https://arxiv.org/abs/1604.06174
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["run"]


def run(block: nn.Module, *given: Tensor, keep: bool) -> Tensor:
    """Returns ``block(*given)``; unless ``keep``, what its gradient needs is computed again in the backward pass."""
    return block(*given) if keep else checkpoint(block, *given, use_reentrant=False)
