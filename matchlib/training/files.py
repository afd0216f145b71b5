"""Files that are either there whole or not at all."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from matchlib.errors import CardError

__all__ = ["read_json", "read_tensors", "write_atomically", "write_json", "write_tensors", "write_text"]


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
        raise CardError(f"{path} cannot be written: {error}") from error
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
        raise CardError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CardError(f"{path} is not a JSON object")
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
        raise CardError(f"{path} is missing or damaged: {error}") from error
    told = note.pop(CHECKSUM, None)
    if told is not None and told != _checksum(tensors, note):
        raise CardError(f"{path} is damaged: its checksum is wrong")
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
