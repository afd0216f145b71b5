"""The CIFAR-10 recipe is not run here, but it is a valid one, and its memory can be planned."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import yaml

from matchlib.data.dataset import Dataset
from matchlib.runs.plan import plan
from matchlib.runs.settings import resolve

GUIDES = Path(__file__).parents[2] / "docs" / "guides"
GIB = 2**30


def test_the_recipe_is_accepted_and_its_parts_are_what_it_says() -> None:
    settings = resolve("distill", config=yaml.safe_load((GUIDES / "cifar10.yaml").read_text()))
    images = np.random.default_rng(0).integers(0, 256, size=(32, 3, 32, 32), dtype=np.uint8)
    found = plan(settings, Dataset.from_arrays("images", images))
    assert found.parts["teacher"] / 4 == 38_944_515  # weights, as the recipe says
    assert found.parts["student's averages"] == 3 * found.parts["student"]
    assert 20 * GIB < found.peak() < 80 * GIB


def test_the_job_is_valid_shell() -> None:
    subprocess.run(["bash", "-n", GUIDES / "slurm.sh"], check=True)
