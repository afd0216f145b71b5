"""Fixtures: a cache of their own, one thread, and the smallest run that goes through everything."""

from __future__ import annotations

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # read when they are loaded, here and in the commands that tests start

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SMALL = [
    "teacher.network.width=16",
    "teacher.network.depth=1",
    "teacher.training.steps=12",
    "teacher.training.batch_size=16",
    "trainer.steps=12",
    "trainer.batch_size=16",
    "trainer.log_every=4",
    "trainer.checkpoint_every=4",
    "evaluation.draws=1",
    'evaluation.metrics=["frechet", "frechet-raw", "sliced-wasserstein"]',
]


@pytest.fixture(autouse=True, scope="session")
def _quiet(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    torch.set_num_threads(1)


@pytest.fixture
def small() -> list[str]:
    """Options that make any run take about a second."""
    return [part for item in SMALL for part in ("--set", item)]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command in this process: (exit code, stdout, stderr)."""
    from matchlib_cli.app import main

    def call(*argv: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(part) for part in argv])
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, tiny distillation of the flow family on digits."""
    from matchlib_cli.app import main

    folder = tmp_path_factory.mktemp("runs") / "flow"
    options = [part for item in SMALL for part in ("--set", item)]
    with pytest.raises(SystemExit) as ended:
        main(["distill", "--out", str(folder), *options])
    assert not ended.value.code
    return folder
