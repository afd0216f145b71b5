"""Weights in the pickles of StyleGAN, EDM and EDM2, read without running the code that these hold.

Such a pickle keeps, for every module, the source text of its class beside its state. Here only plain containers, numbers and tensors are
made; the modules become trees of tensors, and the source text is looked at by nobody.

References:
    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, https://arxiv.org/abs/2206.00364 (the
    accompanying code writes such pickles)
"""

from __future__ import annotations

import importlib
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matchlib.errors import ArtifactError, nearest

__all__ = ["read_network_pickle"]


@dataclass
class _Module:
    """What a pickle says of a module: the name of its class and its state."""

    name: str
    state: Mapping[str, Any] = field(default_factory=dict)


class _Dict(dict):
    """A dictionary of a class that is not made."""


def _persistent(meta: Mapping[str, Any]) -> _Module:
    if not isinstance(meta, Mapping) or not isinstance(meta.get("state"), Mapping):
        raise pickle.UnpicklingError("a module without a state")
    return _Module(str(meta.get("class_name")), meta["state"])


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _rebuilt(storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A tensor within its storage."""
    del rest
    return torch._utils._rebuild_tensor(storage, offset, tuple(size), tuple(stride))


def _parameter(data: Tensor, *rest: Any) -> Tensor:
    del rest
    return data


def _numpy_names() -> dict[tuple[str, str], Any]:
    multiarray = importlib.import_module("numpy._core.multiarray" if hasattr(np, "_core") else "numpy.core.multiarray")
    reconstruct, scalar = multiarray._reconstruct, multiarray.scalar
    homes = ("numpy.core.multiarray", "numpy._core.multiarray")
    found = {(home, name): value for home in homes for name, value in (("_reconstruct", reconstruct), ("scalar", scalar))}
    return {**found, ("numpy", "ndarray"): np.ndarray, ("numpy", "dtype"): np.dtype}


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("builtins", "set"): set,
    **_numpy_names(),
}


class _Unpickler(pickle.Unpickler):
    """Makes what is in ``ALLOWED`` and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return ALLOWED[module, name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not made here")


def read_network_pickle(path: Path, entry: str = "") -> dict[str, Tensor]:
    """Returns the named tensors of a network in a pickle of StyleGAN, EDM or EDM2, as its ``state_dict`` has them.

    Args:
        path: ``FILE.pkl``.
        entry: which of its networks, with dots for parts of one; empty for ``ema`` or ``G_ema``, or the only one.

    Raises:
        ArtifactError: it names code or classes that are not known, or has no such network.
    """
    try:
        with path.open("rb") as file:
            tree = _Unpickler(file).load()
    except (pickle.UnpicklingError, EOFError, OSError, ValueError, TypeError, AttributeError, IndexError, KeyError, RuntimeError) as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ArtifactError(
            f"{path} is no pickle of a network as EDM's code writes them: {why}; if you trust who wrote it, --unpickle runs the code in it"
        ) from error
    networks = {"": tree} if isinstance(tree, _Module) else {k: x for k, x in _items(tree) if isinstance(x, _Module)}
    first, _, rest = entry.partition(".")
    name = first or next((k for k in ("ema", "G_ema", "") if k in networks), next(iter(networks), ""))
    if name not in networks:
        raise ArtifactError(f"{path} has no network {name!r} (it has: {', '.join(networks) or 'none'}){nearest(name, networks)}")
    tensors = dict(_named(networks[name], ""))
    found = {key.removeprefix(f"{rest}."): x for key, x in tensors.items() if not rest or key.startswith(f"{rest}.")}
    if not found:
        raise ArtifactError(f"{path} has no weights at {entry!r}")
    return found


def _items(tree: Any) -> list[tuple[str, Any]]:
    return [(str(key), value) for key, value in tree.items()] if isinstance(tree, Mapping) else []


def _named(module: _Module, prefix: str) -> list[tuple[str, Tensor]]:
    """Parameters and persistent buffers, as ``state_dict`` names them."""
    state, found = module.state, list[tuple[str, Tensor]]()
    passing = state.get("_non_persistent_buffers_set") or ()
    for group in ("_parameters", "_buffers"):
        for key, x in _items(state.get(group)):
            if isinstance(x, Tensor) and key not in passing:
                found.append((f"{prefix}{key}", x.detach()))
    for key, part in _items(state.get("_modules")):
        if isinstance(part, _Module):
            found += _named(part, f"{prefix}{key}.")
    return found
