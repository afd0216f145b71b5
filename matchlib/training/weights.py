"""Weights out of other people's checkpoints: read without running code, copied as far as they fit."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.errors import CardError, nearest
from matchlib.training.files import read_tensors

__all__ = ["Fit", "copy_fitting", "read_checkpoint", "select"]


@dataclass(frozen=True)
class Fit:
    """What became of a copy of weights.

    Args:
        copied: names that were filled.
        missing: names of the module that the weights do not have, or have in another shape.
        unused: names of the weights that the module has no place for.
        share: of the module's numbers that were filled, in [0, 1].
    """

    copied: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    share: float

    def __str__(self) -> str:
        parts = [f"{len(self.copied)} tensors copied, {self.share:.0%} of the weights"]
        for what, names in (("without a match", self.missing), ("unused", self.unused)):
            if names:
                parts.append(f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}")
        return "; ".join(parts)


@torch.no_grad()
def copy_fitting(module: nn.Module, tensors: Mapping[str, Tensor]) -> Fit:
    """Copies the tensors whose name and shape fit into a module, and says what did not."""
    own = module.state_dict()
    fits = [name for name, there in own.items() if name in tensors and tensors[name].shape == there.shape]
    for name in fits:
        own[name].copy_(tensors[name])
    filled, total = (sum(own[name].numel() for name in names) for names in (fits, own))
    missing, unused = (tuple(name for name in names if name not in fits) for names in (own, tensors))
    return Fit(tuple(fits), missing, unused, filled / max(total, 1))


def read_checkpoint(path: str | Path, entry: str = "") -> dict[str, Tensor]:
    """Reads named tensors of a checkpoint: safetensors, or a file of ``torch.save`` with ``weights_only=True``.

    Args:
        entry: keys to the tensors with dots between, such as ``ema_models.0.9999``; empty for the top.

    Raises:
        CardError: it is missing, cannot be read without running its code, or has no such entry.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        tree = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CardError(f"there is no checkpoint at {path}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CardError(
            f"{path} cannot be read without running code that it holds; if you trust who wrote it: "
            f"matchlib convert {path} --trust --out {path.with_suffix('.safetensors').name}"
        ) from error
    return select(tree, entry, path)


def select(tree: Any, entry: str, path: Path) -> dict[str, Tensor]:
    """Returns the named tensors at an entry of a tree of mappings; keys may hold dots themselves.

    Raises:
        CardError: there is no such entry, or no tensors in it.
    """
    rest = entry
    while rest:
        keys = [key for key in tree if rest == str(key) or rest.startswith(f"{key}.")] if isinstance(tree, Mapping) else []
        if not keys:
            there = [str(key) for key in tree] if isinstance(tree, Mapping) else []
            raise CardError(f"{path} has no entry {entry!r} (there are: {', '.join(there[:12]) or 'none'}){nearest(rest, there)}")
        key = max(keys, key=lambda x: len(str(x)))
        tree, rest = tree[key], rest[len(str(key)) + 1 :]
    found = {str(name): x for name, x in tree.items() if isinstance(x, Tensor)} if isinstance(tree, Mapping) else {}
    if not found:
        inside = ", ".join(str(key) for key in tree) if isinstance(tree, Mapping) else type(tree).__name__
        raise CardError(f"{path} holds no named tensors at {entry or 'its top'} (there is: {inside[:200]}); choose an entry")
    return found
