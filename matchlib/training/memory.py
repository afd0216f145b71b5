"""How much memory tensors take, counted as they come and go."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Live", "bytes_of", "saved_peak"]


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Returns the bytes of the tensors' storages, each counted once."""
    return sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it and still alive.

    It does not see what an operation uses for itself while it runs (workspaces of convolutions and of matrix products).

    Attributes:
        now, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                self._seen.add(x.untyped_storage())  # made elsewhere, unless it was counted already
        made = function(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if isinstance(x, Tensor):
                self._count(x.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


def saved_peak(act: Callable[[], Any], weights: Iterable[Tensor] = ()) -> int:
    """Returns the largest number of bytes that autograd keeps for backward passes at once while ``act`` runs.

    Args:
        weights: not counted, since they are there anyway.
    """
    now = peak = 0
    counts: dict[int, int] = {}
    there = {weight.untyped_storage().data_ptr() for weight in weights}

    def keep(x: Tensor) -> _Kept:
        nonlocal now, peak
        storage = x.untyped_storage()
        key = storage.data_ptr()
        if key in there:
            return _Kept(x.detach(), lambda: None)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] == 1:
            now += storage.nbytes()
            peak = max(peak, now)

        def drop(size: int = storage.nbytes()) -> None:
            nonlocal now
            counts[key] -= 1
            if not counts[key]:
                now -= size

        return _Kept(x.detach(), drop)  # the tensor itself may be the answer of the node that keeps it: a cycle

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        act()
    return peak


class _Kept:
    """A saved tensor that tells when it is let go."""

    def __init__(self, tensor: Tensor, drop: Callable[[], None]) -> None:
        self.tensor, self._drop = tensor, drop

    def __del__(self) -> None:
        self._drop()
