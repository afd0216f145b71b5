"""Checkpoints: everything that a run needs to go on as if it had never stopped, in one safetensors file.

A file looks the same whatever the number of processes that wrote it, so that a run may go on with another number of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from matchlib.errors import ArtifactError, nearest
from matchlib.io import read_tensors, write_tensors
from matchlib.training.optimizer import TrainState

__all__ = ["Checkpoints", "step_of"]


class Checkpoints:
    """The checkpoints of one phase of a run.

    Args:
        folder: where they lie, one file each.
        phase: first part of their names.
        keep_last: how many of the latest are kept.
        resume_from: the one to go on from; None for the latest.
        digest: of what the run was made with; a checkpoint with another one is refused.
        note: further strings for every file, such as versions.

    Raises:
        ArtifactError: ``resume_from`` is no checkpoint of this phase.
    """

    def __init__(
        self,
        folder: Path,
        phase: str,
        keep_last: int = 2,
        resume_from: Path | None = None,
        *,
        digest: str = "",
        note: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.phase, self.keep_last, self.resume_from = folder, phase, keep_last, resume_from
        self.digest, self.note = digest, dict(note or {})
        self._protected: dict[str, Path | None] = {}
        if resume_from is not None and step_of(resume_from, phase) is None:
            known = [file.name for file in self.files()]
            raise ArtifactError(
                f"{resume_from} is no checkpoint of {phase} (there are: {', '.join(known) or 'none'}){nearest(resume_from.name, known)}"
            )

    def files(self) -> list[Path]:
        """The phase's checkpoints, oldest first; files with other names are left alone."""
        steps = {file: step_of(file, self.phase) for file in self.folder.glob(f"{self.phase}-*.safetensors")}
        return sorted((file for file, step in steps.items() if step is not None), key=lambda file: (steps[file], file))

    def file(self, step: int) -> Path:
        """The checkpoint after ``step`` steps."""
        return self.folder / f"{self.phase}-{step:08d}.safetensors"

    def last_good(self, but: Path | None = None) -> Path | None:
        """Returns the latest checkpoint that can be read, if there is one.

        Args:
            but: one that is left out.
        """
        return next((file for file in reversed(self.files()) if file != but and _readable(file)), None)

    def trusted(self, well: int, every: int) -> Iterator[Path]:
        """Yields checkpoints by trust: those that a later measurement found well, latest first, and then the others, earliest first.

        Args:
            well: step of the last measurement without an alarm.
            every: steps between regular checkpoints; those written at an interruption are trusted no more than the others, so that
                interruptions change nothing.
        """
        files = self.files()
        well_before = [file for file in files if (step := step_of(file, self.phase) or 0) < well and step % every == 0]
        yield from reversed(well_before)
        yield from (file for file in files if file not in well_before)

    def most_trusted(self, well: int, every: int) -> Path | None:
        """Returns the first of the ``trusted`` checkpoints that can be read, if there is one."""
        return next(filter(_readable, self.trusted(well, every)), None)

    def protect(self, reason: str, file: Path | None) -> None:
        """Keeps a file however old it is, in place of the one that was kept for the same reason."""
        self._protected[reason] = file

    def write(self, step: int, tensors: Mapping[str, Tensor], history: Mapping[str, Any]) -> Path:
        """Writes the state after ``step`` steps, and removes what is older than the last ``keep_last`` and not protected."""
        path = self.file(step)
        note = {"step": json.dumps(step), "phase": self.phase, "digest": self.digest, "history": json.dumps(history), **self.note}
        write_tensors(path, tensors, note)
        for old in self.files()[: -self.keep_last]:
            if old not in self._protected.values():
                old.unlink(missing_ok=True)
        return path

    def clean(self, step: int) -> None:
        """Renames checkpoints later than ``step``, which are written anew, and removes what a killed run left half written."""
        for file in self.files():
            if (step_of(file, self.phase) or 0) > step:
                file.rename(file.with_suffix(".set-aside"))
        for file in self.folder.glob(f".{self.phase}-*.safetensors"):
            file.unlink(missing_ok=True)

    def restore(self, states: Mapping[str, TrainState], path: Path | None = None) -> tuple[int, dict[str, Any], dict[str, Tensor]]:
        """Loads a checkpoint and returns the steps before it, its history and tensors of no learner; (0, {}, {}) if there is none.

        Args:
            path: which; None for ``resume_from``, or else the latest.

        Raises:
            ArtifactError: it is missing or damaged, or belongs to other settings or networks; the message names the last good one.
        """
        path = path or self.resume_from or next(reversed(self.files()), None)
        if path is None:
            return 0, {}, {}
        try:
            tensors, note = read_tensors(path)
            self._require_same_run(path, note)
            for name, state in states.items():
                state.load({key.removeprefix(f"{name}/"): x for key, x in tensors.items() if key.startswith(f"{name}/")})
            others = {key: x for key, x in tensors.items() if not any(key.startswith(f"{name}/") for name in states)}
            return int(note["step"]), dict(json.loads(note["history"])), others
        except _OtherRun:
            raise
        except (ArtifactError, KeyError, RuntimeError, TypeError, ValueError) as error:
            good = self.last_good(but=path)
            other = f"; the last good one is {good}" if good else "; there is no other good one"
            hint = nearest(path.name, [file.name for file in self.files()]) if not path.exists() else ""
            raise ArtifactError(f"checkpoint {path} cannot be loaded ({error}){hint}{other}") from error

    def _require_same_run(self, path: Path, note: Mapping[str, str]) -> None:
        for name, expected in (("phase", self.phase), ("digest", self.digest)):
            if note.get(name, "") != expected:
                what = f"phase {note.get(name)!r}" if name == "phase" else "a run with other settings or data"
                raise _OtherRun(f"checkpoint {path} belongs to {what}; choose another folder, or remove {self.folder}")


class _OtherRun(ArtifactError):
    """The checkpoint of another run or phase."""


def step_of(file: Path, phase: str) -> int | None:
    """Returns the steps before a checkpoint, by its name; None where that is not one of the phase's."""
    match = re.fullmatch(rf"{re.escape(phase)}-([0-9]{{8,18}})\.safetensors", file.name)
    return int(match[1]) if match else None


def _readable(file: Path) -> bool:
    """Whether a checkpoint is whole."""
    try:
        read_tensors(file)
    except ArtifactError:
        return False
    return True
