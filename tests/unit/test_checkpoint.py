"""matchlib.training.checkpoint: which file a training goes on from, and which stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fixtures.trainings import toy_trainer

from matchlib.errors import ArtifactError, Interrupted
from matchlib.io import write_tensors
from matchlib.training.checkpoint import Checkpoints, step_of


def stopped(folder: Path, step: int) -> Path:
    """The checkpoints of a training that was stopped."""
    with pytest.raises(Interrupted):
        toy_trainer(folder, stop_at=step).fit()
    return folder / "checkpoints"


def test_checkpoints_restore_refuses_a_damaged_file_and_names_the_one_before(tmp_path: Path) -> None:
    last = sorted(stopped(tmp_path, 12).iterdir())[-1]
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"toy-00000012.*the last good one is .*toy-00000010"):
        toy_trainer(tmp_path).fit()


@pytest.mark.parametrize(
    "name", ["passwd", "student-00000005.safetensors", "toy-5.safetensors", "toy-0000000\u0665.safetensors", "toy-.safetensors"]
)
def test_checkpoints_refuses_to_resume_from_a_file_that_is_not_of_its_phase(tmp_path: Path, name: str) -> None:
    folder = stopped(tmp_path, 5)
    with pytest.raises(ArtifactError, match=r"is no checkpoint of toy \(there are: toy-00000005.safetensors\)"):
        Checkpoints(folder, "toy", resume_from=folder / name)


def test_checkpoints_restore_refuses_a_file_of_another_phase_under_a_fitting_name(tmp_path: Path) -> None:
    folder = stopped(tmp_path, 5)
    (folder / "toy-00000005.safetensors").rename(folder / "student-00000005.safetensors")
    with pytest.raises(ArtifactError, match="belongs to phase 'toy'"):
        Checkpoints(folder, "student").restore({})


def test_checkpoints_files_leaves_odd_names_alone(tmp_path: Path) -> None:
    folder = stopped(tmp_path, 5)
    for name in ("toy-abc.safetensors", "toy-.safetensors", "toy-1e3.safetensors", "toy-0000000\u00b2.safetensors", "notes.txt"):
        (folder / name).write_text("odd")
    assert [file.name for file in Checkpoints(folder, "toy").files()] == ["toy-00000005.safetensors"]
    toy_trainer(tmp_path).fit()
    assert (folder / "toy-abc.safetensors").read_text() == "odd"


@pytest.mark.parametrize(
    "note", [{}, {"phase": "toy", "digest": "", "step": "x", "history": "{}"}, {"phase": "toy", "step": "5", "history": "["}]
)
def test_checkpoints_restore_refuses_a_file_whose_note_is_none_of_ours(tmp_path: Path, note: dict[str, str]) -> None:
    write_tensors(tmp_path / "toy-00000005.safetensors", {"x": torch.zeros(1)}, note)
    with pytest.raises(ArtifactError, match=r"toy-00000005"):
        Checkpoints(tmp_path, "toy").restore({})


def test_checkpoints_clean_removes_what_a_killed_run_left_half_written(tmp_path: Path) -> None:
    folder = stopped(tmp_path, 5)
    half = folder / ".toy-00000010-abc123.safetensors"
    half.write_bytes(b"half")
    toy_trainer(tmp_path).fit()
    assert not half.exists()


def test_checkpoints_write_keeps_the_latest_and_what_is_protected(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "toy", keep_last=2)
    checkpoints.protect("best", checkpoints.file(1))
    for step in range(1, 6):
        checkpoints.write(step, {"x": torch.zeros(1)}, {})
    assert [step_of(file, "toy") for file in checkpoints.files()] == [1, 4, 5]
    checkpoints.protect("best", None)
    checkpoints.write(6, {"x": torch.zeros(1)}, {})
    assert [step_of(file, "toy") for file in checkpoints.files()] == [5, 6]
