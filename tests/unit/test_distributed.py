"""Several processes, and parts of a batch: the same draws, the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from matchlib.errors import IncompatibleError, SettingError
from matchlib.io import read_tensors
from matchlib.plugins.couplings import MinibatchOT
from matchlib.training.random import BatchSlice

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


@pytest.mark.parametrize("options", [("--engine", "ddp"), ("--engine", "fsdp"), ("--engine", "fsdp", "--micro", "4")])
def test_two_processes_train_the_weights_of_one(tmp_path: Path, alone: dict[str, torch.Tensor], options: tuple[str, ...]) -> None:
    assert gap(weights(tmp_path, *options, processes=2), alone) < 1e-9  # 50 steps in float64


@pytest.mark.parametrize("micro", ["1", "5"])
def test_the_size_of_a_micro_batch_changes_nothing(tmp_path: Path, alone: dict[str, torch.Tensor], micro: str) -> None:
    assert gap(weights(tmp_path, "--micro", micro), alone) < 1e-9


def test_other_random_numbers_would_be_noticed(tmp_path: Path, alone: dict[str, torch.Tensor]) -> None:
    assert gap(weights(tmp_path, "--steps", "49"), alone) > 1e-6


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_process_that_dies_ends_the_run_with_its_name_and_the_others_go_on_from_its_checkpoint(
    tmp_path: Path, alone: dict[str, torch.Tensor], engine: str
) -> None:
    died = start(tmp_path, "--engine", engine, "--die", "1", "31", processes=2)
    assert died.returncode != 0
    assert "rank" in died.stderr
    assert "Signal 9" in died.stderr or "SIGKILL" in died.stderr
    assert gap(weights(tmp_path), alone) < 1e-9  # one process goes on where two stopped
    rows = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [7, 14, 21, 28, 35, 42, 49, 50]


def test_two_processes_resume_bit_for_bit(tmp_path: Path) -> None:
    straight = weights(tmp_path / "straight", processes=2)
    start(tmp_path / "cut", "--die", "0", "23", processes=2)
    assert gap(weights(tmp_path / "cut", processes=2), straight) == 0.0


# -- shares --------------------------------------------------------------------------------------------------------------------


def draws(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shaped = torch.randn(rows, 3, generator=generator), torch.rand((rows, 2), generator=generator)
    whole = torch.rand((), generator=generator).expand(rows)
    return [*shaped, torch.randint(10, (rows,), generator=generator), torch.randint(2, 9, size=(rows, 1), generator=generator), whole]


@pytest.mark.parametrize("most", [1, 3, 7, 8])
def test_parts_draw_what_the_whole_draws(most: int) -> None:
    found = []
    for part in BatchSlice.of(8).parts(most):
        with part.drawing():
            found.append(draws(part.rows))
    assert all(torch.equal(torch.cat(parts), wanted) for parts, wanted in zip(zip(*found, strict=True), draws(8), strict=True))


def test_a_draw_that_cannot_be_cut_is_refused() -> None:
    with BatchSlice(0, 2, 8).drawing(), pytest.raises(IncompatibleError, match=r"normal_.*cannot be cut.*torch\.randn"):
        torch.empty(2).normal_(generator=torch.Generator())


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    with pytest.raises(SettingError, match="a batch of 10 samples cannot be shared equally by 4 processes"):
        BatchSlice.of(10, 0, 4)


def test_samples_that_share_a_plan_are_not_parted() -> None:
    assert MinibatchOT(block=4).block_size(12) == 4
