"""A run's folder, read as it is: whatever is missing or damaged is left out, and no code that it names is run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matchlib.errors import ArtifactError, MatchlibError
from matchlib.io import read_json, read_text, read_yaml, whole_number
from matchlib.runs.exhibit import Exhibit
from matchlib.training.callbacks import is_measured

__all__ = ["Follower", "Record", "group", "read_record", "read_rows"]

ROWS = 1000  # of a log that a page is drawn from, besides those that were measured
LONGEST = 1 << 16  # characters of a row of the log; no row that matchlib writes is as long


@dataclass(frozen=True)
class Record:
    """What the files of a run say.

    Args:
        folder: of the run.
        settings: of ``config.yaml``.
        rows: of ``metrics.jsonl``, in their order, of a long log not all of them.
        evaluation: of ``evaluation.json``; empty until the run is scored.
        exhibit: of ``report.safetensors``.
    """

    folder: Path
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    exhibit: Exhibit = field(default_factory=Exhibit)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def phases(self) -> list[str]:
        """The phases of the log, in their order."""
        return list(dict.fromkeys(row["phase"] for row in self.rows))

    def of(self, phase: str) -> list[Mapping[str, Any]]:
        """Returns the rows of a phase."""
        return [row for row in self.rows if row["phase"] == phase]

    def steps_of(self, phase: str) -> int:
        """Returns the steps that a phase is to take; 0 where the settings do not say."""
        steps = self.setting(*(("teacher", "training", "steps") if phase == "teacher" else ("trainer", "steps")))
        return steps if isinstance(steps, int) else 0

    def setting(self, *path: str) -> Any:
        """Returns a setting; None where there is none."""
        value: Any = self.settings
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def read_record(folder: str | Path) -> Record:
    """Reads a run's folder.

    Raises:
        ArtifactError: there is no run.
    """
    folder = Path(folder).expanduser()
    if not (folder / "config.yaml").is_file():
        raise ArtifactError(f"there is no run at {folder}: {folder / 'config.yaml'} is missing")
    rows = thinned(read_rows(folder / "metrics.jsonl"))
    return Record(folder, read_yaml(folder / "config.yaml"), rows, _json(folder / "evaluation.json"), Exhibit.read(folder))


def group(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns the mapping at a key; an empty one where there is none."""
    value = tree.get(key)
    return value if isinstance(value, Mapping) else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except MatchlibError:
        return {}


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a log; lines that are no rows are passed over, as are those that are still being written."""
    try:
        text = read_text(path, errors="replace")
    except ArtifactError:
        return
    for line in text.splitlines():
        row = parse_row(line)
        if row is not None:
            yield row


def thinned(rows: Iterable[dict[str, Any]], most: int = ROWS) -> list[dict[str, Any]]:
    """Returns rows of a log, all that were measured and about ``most`` of the others, so that a long log takes no more memory."""
    kept: list[dict[str, Any]] = []
    others, stride = 0, 1
    for i, row in enumerate(rows):
        if is_measured(row):
            kept.append(row)
        elif i % stride == 0:
            kept.append(row)
            others += 1
        if others > 2 * most:
            stride *= 2
            spare = [j for j, row in enumerate(kept) if not is_measured(row)][1::2]
            gone = set(spare)
            kept = [row for j, row in enumerate(kept) if j not in gone]
            others -= len(spare)
    return kept


class Follower:
    """Reads what is new in the log of a run that another process writes, or goes on with.

    Args:
        path: ``metrics.jsonl``; it may not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file, self._at = path, (-1, -1), 0
        self._seen: set[str] = set()  # lines: a resumed run writes the whole file anew

    def new(self) -> list[dict[str, Any]]:
        """Returns the rows that were added since the last call; a line that is still being written is left for the next one."""
        if not self.path.is_file():  # a pipe would be waited for
            return []
        try:
            with self.path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._at:
                    self._file, self._at = (status.st_dev, status.st_ino), 0
                file.seek(self._at)
                whole = file.read().rpartition(b"\n")[0]
        except OSError:
            return []
        self._at += len(whole) + 1 if whole else 0
        lines = [line for line in whole.decode("utf-8", "replace").splitlines() if line not in self._seen]
        self._seen.update(lines)
        return [row for line in lines if (row := parse_row(line)) is not None]


def parse_row(line: str) -> dict[str, Any] | None:
    """Returns a row of a log; None for a line that is none."""
    try:
        row = json.loads(line[:LONGEST], parse_int=whole_number)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and isinstance(row.get("phase"), str) and type(row.get("step")) is int
    return row if whole else None
