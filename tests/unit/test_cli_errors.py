"""How commands end: what is no error of ours is told in a line of bounded length, with exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.runs import SMALL

from matchlib.errors import DivergedError, SettingError
from matchlib.training.distributed import rank
from matchlib_cli.errors import exit_code
from matchlib_cli.files import check_finite, parse_labels

Cli = Callable[..., tuple[int, str, str]]


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(36, "File name too long", "x" * 5000), 2, "cannot be used: File name too long"),
        (PermissionError(13, "Permission denied", "/root"), 2, "'/root' cannot be used: Permission denied"),
        (MemoryError(), 2, "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), 2, "not enough memory"),
        (RuntimeError("Could not determine home directory."), 2, "begins with ~"),
        (SettingError("a\nb" * 5000), 2, " ... "),
        (DivergedError("no"), 3, "no"),
        (KeyboardInterrupt(), 130, ""),
        (ZeroDivisionError("ours"), 70, "This is an error of matchlib"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, BaseException) else "",
)
def test_exit_code_is_what_the_error_deserves(capsys: pytest.CaptureFixture[str], error: BaseException, code: int, said: str) -> None:
    assert exit_code(raising(error), given="matchlib") == code
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == int(bool(said)) and len(err) < 1100


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "2"}, "RANK, MASTER_ADDR, MASTER_PORT is not set: start several processes with torchrun"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE must be a number, got 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "-1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK must be a number, got '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "5", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK must be below WORLD_SIZE, got 5 and 2"),
    ],
)
def test_half_an_environment_of_several_processes_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], environment: dict[str, str], said: str
) -> None:
    """torch would wait for the other processes, or end in a traceback."""
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert exit_code(rank, given="matchlib distill") == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, {"RANK": "0"}])
def test_one_process_needs_no_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert rank() == (0, 1)


def test_output_without_unicode_is_written(tmp_path: Path) -> None:
    """A terminal or a file that takes ASCII alone."""
    settings = [f"{key}={json.dumps(value)}" for key, value in {**SMALL, "trainer.steps": 12}.items()]
    command = [sys.executable, "-m", "matchlib_cli", "distill", "--data", "moons", "--out", str(tmp_path / "run")]
    command += [part for item in settings for part in ("--set", item)]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and b"wrote" in done.stdout


@pytest.mark.parametrize("text", ["1" * 23, "²", "", "1,,2", "1.5", "--1", "x"])
def test_parse_labels_refuses_what_are_no_integers(text: str) -> None:
    with pytest.raises(SettingError, match="--labels must be"):
        parse_labels(text)
    assert parse_labels("3, 4,-1") == [3, 4, -1]


def test_check_finite_refuses_samples_that_are_no_numbers() -> None:
    check_finite(np.zeros((4, 2)), "student")
    with pytest.raises(DivergedError, match="1 of 4 samples of the student are NaN"):
        check_finite(np.where(np.arange(8).reshape(4, 2) == 3, np.nan, 0.0), "student")


def test_sample_of_a_diverged_student_writes_nothing(finished: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from matchlib.runs.pipeline import Pipeline

    monkeypatch.setattr(Pipeline, "denormalize", lambda self, x: torch.full_like(x, torch.nan))
    code, _, err = cli("sample", finished, "-n", "3", "--out", tmp_path / "a.npz")
    assert (code, err.count("\n")) == (3, 1)
    assert "3 of 3 samples of the" in err
    assert not list(tmp_path.iterdir())


def test_compare_refuses_an_evaluation_that_is_none_by_its_key(finished: Path, tmp_path: Path, cli: Cli) -> None:
    import json

    report = json.loads((finished / "evaluation.json").read_text())
    for key, value in (("samples", "5"), ("held_out", None), ("student", {"frechet": [[1]]}), ("draws", 1.5)):
        (tmp_path / "evaluation.json").write_text(json.dumps({**report, key: value}))
        code, _, err = cli("compare", tmp_path, finished)
        assert (code, err.count("\n")) == (2, 1)
        assert "holds no evaluation of matchlib" in err and key in err
    (tmp_path / "evaluation.json").write_text(json.dumps({**report, "student": {"frechet": None, "nfe": 1, "w2": "inf"}}))
    assert cli("compare", tmp_path, finished)[0] == 0
