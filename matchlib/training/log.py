"""The run's log: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matchlib.errors import ArtifactError
from matchlib.io import write_text

__all__ = ["Log"]


class Log:
    """Appends rows to a file, or keeps none where ``path`` is None.

    Args:
        path: ``metrics.jsonl`` of a run.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends one row; it is on its way to disk when this returns."""
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be written: {error}") from error

    def rewind(self, phase: str, step: int) -> None:
        """Drops the phase's rows after ``step``, and a last line cut short, so that a resumed run's log has no row twice."""
        if self.path is None or not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row.get("phase") != phase or row["step"] <= step:
                kept.append(line)
        text = "".join(f"{line}\n" for line in kept)
        write_text(self.path, text)
