"""A plugin in a package of its own is found through its entry point, and everything works with it, without a line changed in matchlib."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "fixtures" / "sine_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the package is installed, into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
        str(PACKAGE),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}


def run(env: dict[str, str], *argv: str) -> str:
    result = subprocess.run([sys.executable, "-m", "matchlib_cli", *argv], env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_package_is_listed(installed: dict[str, str]) -> None:
    listed = run(installed, "plugins")
    assert "sine" in listed
    assert "half" in listed


@pytest.mark.parametrize(("group", "name"), [("interpolants", "sine"), ("losses", "half")])
def test_the_package_passes_the_laws(installed: dict[str, str], group: str, name: str) -> None:
    assert run(installed, "check", group, name).strip().endswith("0 failed")


def test_the_package_trains_distils_and_samples(installed: dict[str, str], tmp_path: Path, small: list[str]) -> None:
    run_folder = str(tmp_path / "run")
    options = [
        "--set",
        "teacher.interpolant.name=sine",
        "--set",
        "student.t_start=0.9",
        "--loss",
        "half",
        "--data",
        "moons",
        "--out",
        run_folder,
        *small,
    ]
    run(installed, "distill", "--teacher", "flow", *options)
    assert '"name": "sine"' in (tmp_path / "run" / "student" / "config.json").read_text()
    run(installed, "sample", run_folder, "-n", "4", "--out", str(tmp_path / "x.npz"))
    run(installed, "train", "--family", "flow", "--set", "teacher.interpolant.name=sine", "--out", str(tmp_path / "train"), *small)
