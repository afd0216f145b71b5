"""The CIFAR-10 recipe is not run here, but it is a valid one, and its memory can be planned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from matchlib.data.dataset import Dataset
from matchlib.runs.build import build
from matchlib.runs.plan import plan
from matchlib.runs.settings import RunSettings, resolve

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
GIB = 2**30


def images() -> Dataset:
    return Dataset.from_arrays("images", np.random.default_rng(0).integers(0, 256, size=(32, 3, 32, 32), dtype=np.uint8))


def recipe() -> RunSettings:
    return resolve("distill", config=yaml.safe_load((GUIDES / "cifar10.yaml").read_text()))


def test_the_recipe_is_accepted_and_its_network_is_what_it_says() -> None:
    components = build(recipe().model_copy(update={"device": "cpu"}), data=images())
    assert sum(weight.numel() for weight in components.teacher.parameters()) == 38_944_515


@pytest.mark.slow
def test_the_benchmark_of_the_recipe_goes_on_slice_by_slice(tmp_path: Path) -> None:
    """The first slice ends while a teacher of 40,000 steps is trained; the second ends all runs that are asked for."""
    np.savez(tmp_path / "images.npz", data=np.random.default_rng(0).integers(0, 256, size=(300, 3, 32, 32), dtype=np.uint8))
    call = [sys.executable, "-m", "benchmarks.gpu.cifar", str(tmp_path / "images.npz"), "--out", str(tmp_path / "runs"), "--smoke"]

    def rows(*options: str) -> tuple[str, dict[str, Any]]:
        done = subprocess.run([*call, *options], cwd=GUIDES.parents[1], capture_output=True, text=True, check=True, timeout=1200)
        found = json.loads((tmp_path / "runs" / "cifar.json").read_text())["rows"]
        return done.stdout, {row["run"]: row for row in found}

    said, first = rows("--share", "0.1", "--minutes", "0.6", "--only", "teacher")
    assert "call again to go on" in said
    assert 0 < first["teacher"]["step"] < 40_000
    log = tmp_path / "runs" / "teacher" / "metrics.jsonl"
    before = len(log.read_text().splitlines())
    said, second = rows("--share", "0.1", "--minutes", "0.6", "--only", "teacher")  # it may end or not
    assert len(log.read_text().splitlines()) > before
    assert second["teacher"]["step"] > first["teacher"]["step"]
    rates = [row["teacher"]["images per second"] for row in (first, second)]
    assert max(rates) < 5 * min(rates)
    shutil.rmtree(tmp_path / "runs")
    said, ended = rows("--share", "1e-4", "--minutes", "15")
    assert "all runs have ended" in said
    assert [row["step"] for row in ended.values()] == [40, 50, 50, 10, 50]
    assert all(("student" in row) == (name != "teacher") for name, row in ended.items())


@pytest.mark.slow
def test_the_recipe_takes_the_memory_that_it_says() -> None:
    found = plan(recipe(), images())
    assert found.parts["student's averages"] == 3 * found.parts["student"]
    assert 20 * GIB < found.peak() < 80 * GIB


def test_the_job_is_valid_shell() -> None:
    subprocess.run(["bash", "-n", GUIDES / "slurm.sh"], check=True)
