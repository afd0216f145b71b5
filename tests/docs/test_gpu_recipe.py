"""The CIFAR-10 recipe is not run here, but it is a valid one, and its memory can be planned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
    """The first slice ends at once; the second ends all five runs, of 40 steps of the teacher and 50 or 10 of students."""
    np.savez(tmp_path / "images.npz", data=np.random.default_rng(0).integers(0, 256, size=(300, 3, 32, 32), dtype=np.uint8))
    call = [sys.executable, "-m", "benchmarks.gpu.cifar", str(tmp_path / "images.npz"), "--out", str(tmp_path / "runs"), "--smoke"]
    for minutes, ended in ((0.0, "call again"), (20.0, "all runs have ended")):
        options = ["--share", "1e-4", "--minutes", str(minutes)]
        done = subprocess.run([*call, *options], cwd=GUIDES.parents[1], capture_output=True, text=True, check=True, timeout=1200)
        assert ended in done.stdout
    rows = json.loads((tmp_path / "runs" / "cifar.json").read_text())["rows"]
    assert [row["step"] for row in rows] == [40, 50, 50, 10, 50]
    assert all(("student" in row) == (row["run"] != "teacher") for row in rows)


@pytest.mark.slow
def test_the_recipe_takes_the_memory_that_it_says() -> None:
    found = plan(recipe(), images())
    assert found.parts["student's averages"] == 3 * found.parts["student"]
    assert 20 * GIB < found.peak() < 80 * GIB


def test_the_job_is_valid_shell() -> None:
    subprocess.run(["bash", "-n", GUIDES / "slurm.sh"], check=True)
