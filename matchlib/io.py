"""Files: written whole or not at all, read without running code; and the cache folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from matchlib.errors import ArtifactError, nearest

__all__ = [
    "CopiedWeights",
    "copy_fitting",
    "read_checkpoint",
    "read_json",
    "read_tensors",
    "select",
    "write_atomically",
    "write_json",
    "write_tensors",
    "write_text",
]


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Lets ``write`` fill a temporary file beside ``path``, flushes it to disk and moves it into place.

    Raises:
        CardError: the folder cannot be written, or the disk is full; ``path`` is as it was.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be written: {error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object atomically; NaN becomes null and infinities strings, so that every reader can read it."""
    text = json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return None if isinstance(value, float) and math.isnan(value) else value


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        CardError: it is missing or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is not a JSON object")
    return value


def write_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, str] | None = None) -> None:
    """Writes tensors as safetensors, atomically, with a note of strings and a checksum of all of it."""
    whole = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    note = dict(note or {})
    write_atomically(path, lambda temporary: save_file(whole, temporary, {**note, CHECKSUM: _checksum(whole, note)}))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads tensors and their note.

    Raises:
        CardError: the file is missing or damaged, or its checksum, if it has one, is another.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            note = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} is missing or damaged: {error}") from error
    told = note.pop(CHECKSUM, None)
    if told is not None and told != _checksum(tensors, note):
        raise ArtifactError(f"{path} is damaged: its checksum is wrong")
    return tensors, note


CHECKSUM = "blake2b"


def _checksum(tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> str:
    """A digest of names, shapes, types, contents and note."""
    digest = hashlib.blake2b(json.dumps(sorted(note.items())).encode(), digest_size=16)
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"{name} {tuple(x.shape)} {x.dtype}".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class CopiedWeights:
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
def copy_fitting(module: nn.Module, tensors: Mapping[str, Tensor]) -> CopiedWeights:
    """Copies the tensors whose name and shape fit into a module, and says what did not."""
    own = module.state_dict()
    fits = [name for name, there in own.items() if name in tensors and tensors[name].shape == there.shape]
    for name in fits:
        own[name].copy_(tensors[name])
    filled, total = (sum(own[name].numel() for name in names) for names in (fits, own))
    missing, unused = (tuple(name for name in names if name not in fits) for names in (own, tensors))
    return CopiedWeights(tuple(fits), missing, unused, filled / max(total, 1))


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
        raise ArtifactError(f"there is no checkpoint at {path}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise ArtifactError(
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
            raise ArtifactError(f"{path} has no entry {entry!r} (there are: {', '.join(there[:12]) or 'none'}){nearest(rest, there)}")
        key = max(keys, key=lambda x: len(str(x)))
        tree, rest = tree[key], rest[len(str(key)) + 1 :]
    found = {str(name): x for name, x in tree.items() if isinstance(x, Tensor)} if isinstance(tree, Mapping) else {}
    if not found:
        inside = ", ".join(str(key) for key in tree) if isinstance(tree, Mapping) else type(tree).__name__
        raise ArtifactError(f"{path} holds no named tensors at {entry or 'its top'} (there is: {inside[:200]}); choose an entry")
    return found


def cache_folder() -> Path:
    """STUB."""
    from matchlib.evaluation.features import cache_folder as found

    return found()


def tensor_shapes(path: Path) -> dict[str, torch.Size]:
    """STUB."""
    return {k: x.shape for k, x in read_tensors(path)[0].items()}


_locks: dict[str, Any] = {}


def lock(folder: Path) -> None:
    """STUB."""
