"""What an evaluation has computed so far, kept in files so that an interrupted one goes on."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from matchlib.errors import ArtifactError
from matchlib.evaluation.work import Work
from matchlib.io import read_json, read_tensors, write_json, write_tensors

__all__ = ["Cells"]

EVERY = 1.0  # seconds between writes of small values
PROTOCOL, VALUES = "protocol.json", "values.json"


class Cells:
    """Results by name, each computed once for one protocol, however often the work is interrupted.

    Args:
        folder: of the files.
        protocol: JSON; what another protocol left is removed.
        work: told of every part.
        kept: whether results are written at all.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any], work: Work, *, kept: bool = True) -> None:
        self.folder, self.work, self.kept = folder, work, kept
        self._values: dict[str, Any] = {}
        self._written = time.monotonic()
        if not kept:
            return
        if self._read(PROTOCOL) == json.loads(json.dumps(protocol)):
            self._values = self._read(VALUES) or {}
        else:
            self.remove()
            write_json(folder / PROTOCOL, protocol)

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """Returns the value of that name, computed where it is missing: JSON."""
        if name not in self._values:
            try:
                self._values[name] = compute()
            except BaseException:
                self._write()
                raise
            if time.monotonic() - self._written > EVERY:
                self._write()
        return self._values[name]

    def tensor(self, name: str, compute: Callable[[], tuple[Tensor, Mapping[str, float]]]) -> tuple[Tensor, Mapping[str, float]]:
        """Returns the tensor of that name and its note, computed where they are missing or damaged."""
        path = self.folder / f"{name}.safetensors"
        if self.kept and path.exists():
            try:
                tensors, note = read_tensors(path)
                return tensors["samples"], {key: float(value) for key, value in note.items()}
            except (ArtifactError, KeyError, ValueError):
                path.unlink(missing_ok=True)
        samples, numbers = compute()
        if self.kept:
            write_tensors(path, {"samples": samples}, {key: repr(value) for key, value in numbers.items()})
        return samples, numbers

    def remove(self) -> None:
        """Removes the files."""
        if self.kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self) -> None:
        if self.kept and self._values:
            write_json(self.folder / VALUES, self._values)
            self._written = time.monotonic()

    def _read(self, name: str) -> Any:
        try:
            return read_json(self.folder / name)
        except ArtifactError:
            return None
