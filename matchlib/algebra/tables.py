"""Tables of numbers that are made once for each type and device."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

__all__ = ["table"]


def table(make: Callable[[], Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns an array as a tensor that may be remembered.

    It is made in a thread of its own, because torch's modes belong to a thread. So a remembered table has numbers even if it is
    first asked for under a mode that has none (a memory plan), or one that forbids gradients for good (inference).
    """
    with ThreadPoolExecutor(1) as outside:
        return outside.submit(lambda: torch.as_tensor(make(), dtype=dtype, device=device)).result()
