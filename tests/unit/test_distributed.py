"""matchlib.training.distributed: several processes train the weights of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import matchlib
from matchlib.errors import SettingError
from matchlib.io import read_tensors
from matchlib.training.distributed import SingleProcess, strategy

pytestmark = pytest.mark.runs

SCRIPT = Path(__file__).parents[1] / "fixtures" / "processes.py"


def start(out: Path, *options: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *several, str(SCRIPT), str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)


def weights(out: Path, *options: str, processes: int = 1) -> dict[str, torch.Tensor]:
    done = start(out, *options, processes=processes)
    assert done.returncode == 0, done.stderr
    return read_tensors(out / "weights.safetensors")[0]


def gap(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[key] - other[key]).abs().max().item() for key in one)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return weights(tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize(
    "options",
    [
        ("--parallel", "ddp"),
        pytest.param(("--parallel", "fsdp"), marks=pytest.mark.slow),
        pytest.param(("--parallel", "fsdp", "--micro", "4"), marks=pytest.mark.slow),
    ],
)
def test_strategy_two_processes_train_the_weights_of_one(tmp_path: Path, alone: dict[str, torch.Tensor], options: tuple[str, ...]) -> None:
    assert gap(weights(tmp_path, *options, processes=2), alone) < 1e-9  # 50 steps in float64


@pytest.mark.slow
@pytest.mark.parametrize("micro", ["1", "5"])
def test_micro_batch_size_changes_nothing(tmp_path: Path, alone: dict[str, torch.Tensor], micro: str) -> None:
    assert gap(weights(tmp_path, "--micro", micro), alone) < 1e-9


def test_two_processes_read_from_disk_what_one_does(tmp_path: Path) -> None:
    """Each reads its slice of every batch; float32, so sums in another order differ by rounding."""
    images, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "digits.npz", data=images.reshape(-1, 1, 8, 8).astype(np.uint8), labels=labels)
    matchlib.prepare(tmp_path / "digits.npz", tmp_path / "set")
    one, two = (weights(tmp_path / str(count), "--stored", str(tmp_path / "set"), processes=count) for count in (1, 2))
    assert gap(one, two) < 1e-5
    fewer = weights(tmp_path / "fewer", "--stored", str(tmp_path / "set"), "--steps", "49")
    assert gap(one, fewer) > 1e-4


def test_other_random_numbers_would_be_noticed(tmp_path: Path, alone: dict[str, torch.Tensor]) -> None:
    assert gap(weights(tmp_path, "--steps", "49"), alone) > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_strategy_a_process_that_dies_ends_the_run_with_its_name_and_one_goes_on_from_its_checkpoint(
    tmp_path: Path, alone: dict[str, torch.Tensor], engine: str
) -> None:
    died = start(tmp_path, "--parallel", engine, "--die", "1", "31", processes=2)
    assert died.returncode != 0
    assert "rank" in died.stderr
    assert "Signal 9" in died.stderr or "SIGKILL" in died.stderr
    assert gap(weights(tmp_path), alone) < 1e-9  # one process goes on where two stopped
    rows = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [7, 14, 21, 28, 35, 42, 49, 50]


@pytest.mark.slow
def test_strategy_two_processes_resume_bit_for_bit(tmp_path: Path) -> None:
    straight = weights(tmp_path / "straight", processes=2)
    start(tmp_path / "cut", "--die", "0", "23", processes=2)
    assert gap(weights(tmp_path / "cut", processes=2), straight) == 0.0


def test_strategy_refuses_a_name_that_does_not_exist() -> None:
    with pytest.raises(SettingError, match="parallel must be one of ddp, fsdp, got 'fdsp'; did you mean 'fsdp'"):
        strategy("fdsp")
    assert type(strategy("fsdp")) is SingleProcess
