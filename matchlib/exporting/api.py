"""Exports: a run's student as files that need no matchlib, compared with ``Pipeline.sample`` before they stay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError, SettingError
from matchlib.exporting.exporter import Exportable, Exporter
from matchlib.exporting.readme import write_readme
from matchlib.fields.teacher import Teacher
from matchlib.io import check_new_folder, write_folder
from matchlib.registry import exports
from matchlib.runs.artifact import find_artifact, read_config
from matchlib.runs.pipeline import load
from matchlib.runs.settings import typed

__all__ = ["Exported", "export"]

SIZES = (5, 1)  # numbers of samples that are compared


@dataclass(frozen=True)
class Exported:
    """An exported folder.

    Args:
        folder: where it is.
        error: largest difference from ``Pipeline.sample``, in standard deviations of the data or of the largest sample.
        tolerance: what it had to stay below.
        files: names of what was written.
    """

    folder: Path
    error: float
    tolerance: float
    files: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"wrote {self.folder}: {', '.join(self.files)}; largest difference from Pipeline.sample {self.error:.1e} "
            f"(at most {self.tolerance:.0e})"
        )


def export(
    run: str | Path,
    to: str,
    out: str | Path,
    *,
    license: str | None = None,
    push: str | None = None,
    ema: float | None = None,
    teacher: Teacher | None = None,
    trust: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Exported:
    """Writes a run's student in a form that others load, and compares it with ``Pipeline.sample``.

    Args:
        run: folder of a run, or of a student's artifact.
        to: registered name of the form: ``diffusers``, ``onnx``, ``pt2`` or ``hub``.
        out: folder to write; it must be new or empty.
        license: of the weights, for the README's head; nothing is stated otherwise.
        push: name of a repository of the Hugging Face hub that the folder is uploaded to.
        ema: decay of one of the further averages that the run kept; None for its main one.
        teacher: the teacher that was distilled, where it was made in Python.
        trust: whether Python code that the artifact names may be run.
        settings: of the form, as in ``--set``.

    Raises:
        ArtifactError: the run has no student, or ``out`` is not empty.
        IncompatibleError: the student cannot be written in this form, or what was written differs.
        MatchlibError: a package is not installed.
    """
    exporter: Exporter = exports.build({**typed("exports", to, settings or {}), "name": to})
    hub = None if push is None else _hub()
    folder, where = Path(run).expanduser(), Path(out).expanduser()
    check_new_folder(where)
    loaded = partial(load, ema=None, teacher=teacher, trust=trust)
    student = Exportable(load(_student(folder), ema=ema, teacher=teacher, trust=trust), folder, loaded)
    errors: list[float] = []

    def write(partial_folder: Path) -> None:
        exporter.write(student, partial_folder)
        errors.append(_checked(exporter, student, partial_folder, to))
        write_readme(exporter, student, partial_folder, license)

    write_folder(where, write)
    if hub is not None:
        _upload(hub, where, str(push))
    return Exported(where, errors[0], exporter.tolerance, tuple(sorted(path.name for path in where.iterdir())))


def _student(folder: Path) -> Path:
    """Returns the folder of a run's student.

    Raises:
        ArtifactError: there is no run, or it has no student.
    """
    place = find_artifact(folder, "student") if folder.is_dir() else None
    if place is not None and read_config(place).student is not None:
        return place
    if place is not None or (folder.is_dir() and find_artifact(folder, "teacher") is not None):
        raise ArtifactError(f"{folder} has no finished student, and only students are exported: matchlib distill --teacher {folder}")
    raise ArtifactError(f"{folder} is no folder of a finished run" if folder.is_dir() else f"there is no run at {folder}")


@torch.no_grad()
def _checked(exporter: Exporter, student: Exportable, folder: Path, name: str) -> float:
    """Returns the largest difference of the written files from ``Pipeline.sample`` on fixed inputs.

    Raises:
        IncompatibleError: it is above the tolerance.
    """
    worst = 0.0
    for n in SIZES:
        inputs = student.inputs(n)
        found, expected = exporter.samples(student, folder, inputs), exporter.expected(student, folder, inputs)
        error = _difference(found, expected, student.config.data.shift, student.config.data.scale)
        if not error <= exporter.tolerance:
            raise IncompatibleError(
                f"the export to {name} differs from Pipeline.sample by {error:.1e}, more than {exporter.tolerance:.0e}: nothing was written"
            )
        worst = max(worst, error)
    return worst


def _difference(found: Tensor, expected: Tensor, shift: float, scale: float) -> float:
    """Returns the largest difference, in units of the model, over the largest sample where that is above 1."""
    if found.shape != expected.shape:
        return math.inf
    largest = max(1.0, float(((expected - shift) / scale).abs().max()))
    return float(((found - expected) / scale).abs().max()) / largest


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MatchlibError("push needs the package huggingface-hub: pip install huggingface-hub") from error
    return huggingface_hub


def _upload(hub: Any, folder: Path, repository: str) -> None:
    """Uploads a folder to a repository, which is made where it is missing."""
    try:
        api = hub.HfApi()
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder))
    except Exception as error:  # whatever the network or the hub raises
        reason = next(iter(str(error).splitlines()), "")
        raise SettingError(f"{folder} is written, but could not be pushed to {repository!r}: {reason}") from error
