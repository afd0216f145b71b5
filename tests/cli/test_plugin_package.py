"""Plugins in packages of their own are found through entry points, and everything works with them, without a line changed in matchlib."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = [Path(__file__).parents[1] / "fixtures" / name for name in ("sine_package", "smoothstep_package")]

BROKEN = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "matchlib-broken"
version = "0.0.1"
[project.entry-points."matchlib.interpolants"]
broken = "matchlib_broken:Missing"
"""


def install(target: Path, *packages: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, *map(str, packages)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which the packages are installed, into a folder of their own, and one that cannot be imported."""
    target, broken = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("broken")
    (broken / "matchlib_broken").mkdir()
    (broken / "matchlib_broken" / "__init__.py").write_text("import no_such_module\n")
    (broken / "pyproject.toml").write_text(BROKEN)
    install(target, *PACKAGES, broken)
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def result(env: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "matchlib_cli", *argv], env=env, capture_output=True, text=True, check=False)


def run(env: dict[str, str], *argv: str) -> str:
    finished = result(env, *argv)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_plugins_lists_packages_even_if_one_cannot_be_imported(installed: dict[str, str]) -> None:
    listed = run(installed, "plugins")
    assert all(name in listed for name in ("sine", "half", "smoothstep", "broken"))


def test_check_names_the_reason_why_a_package_cannot_be_imported(installed: dict[str, str]) -> None:
    finished = result(installed, "check", "interpolants", "broken")
    assert finished.returncode == 2
    assert "no_such_module" in finished.stderr


def test_check_of_a_group_names_what_cannot_be_imported_and_checks_the_others(tmp_path: Path) -> None:
    """One broken package once kept every other plugin of its group, and ``--all``, from being checked."""
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[matchlib.datasets]\nbroken = no_such_module:Missing\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    finished = result({**os.environ, "PYTHONPATH": path}, "check", "datasets")
    assert finished.returncode == 1, finished.stderr
    assert "'broken' is the entry point" in finished.stdout and "no_such_module" in finished.stdout
    assert "moons" in finished.stdout
    assert finished.stdout.strip().endswith("1 failed")


@pytest.mark.parametrize(
    ("group", "name"), [("interpolants", "sine"), ("interpolants", "smoothstep"), pytest.param("losses", "half", marks=pytest.mark.slow)]
)
def test_check_passes_packages(installed: dict[str, str], group: str, name: str) -> None:
    assert run(installed, "check", group, name).strip().endswith("0 failed")


MODULE = """
from dataclasses import dataclass
from matchlib import interpolants
from matchlib.plugins.interpolants import Linear
for name in ("several-one", "several-two", "several-three"):
    interpolants.register(name)(dataclass(frozen=True)(type(name, (Linear,), {"__module__": __name__})))
"""


@pytest.mark.slow
def test_check_draws_alike_where_a_package_registers_several_plugins(tmp_path: Path) -> None:
    """The one that stands in the entry points is imported, and with it the others, before anything is drawn."""
    (tmp_path / "several.py").write_text(MODULE)
    info = tmp_path / "several-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: several\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[matchlib.interpolants]\nseveral-one = several\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert run({**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, "check", "losses", "uid").strip().endswith("0 failed")


@pytest.mark.slow
@pytest.mark.parametrize(("interpolant", "loss"), [("sine", "half"), ("smoothstep", "realuid")])
def test_distill_and_sample_work_with_packages(
    installed: dict[str, str], tmp_path: Path, small: list[str], interpolant: str, loss: str
) -> None:
    chosen = ["--set", f"teacher.interpolant.name={interpolant}", "--data", "moons", *small]
    folder = str(tmp_path / "run")
    run(installed, "distill", "--teacher", "flow", "--set", "student.t_start=0.9", "--loss", loss, "--out", folder, *chosen)
    assert f'"name": "{interpolant}"' in (tmp_path / "run" / "student" / "config.json").read_text()
    run(installed, "sample", folder, "-n", "4", "--out", str(tmp_path / "x.npz"))
    run(installed, "train", "--family", "flow", "--out", str(tmp_path / "train"), *chosen)


NOISE = """
from dataclasses import replace
import torch, matchlib
from matchlib.algebra.records import Batch
model = matchlib.load("RUN").config.model
assert type(model.interpolant).__name__ == "Smoothstep"
zeros, t = torch.zeros(20_000, 2), torch.full((20_000,), 0.5)
pair = replace(model.coupling.pair(Batch(zeros), generator=torch.Generator()), source=zeros)
state = model.interpolate(pair, t, generator=torch.Generator().manual_seed(0)).state
assert abs(state.std().item() / (0.2 / 4) - 1) < 0.02, state.std()
"""


def test_a_distilled_path_holds_the_noise_that_only_its_schedule_states(
    installed: dict[str, str], tmp_path: Path, small: list[str]
) -> None:
    options = ["--set", "teacher.interpolant.name=smoothstep", "--data", "moons", *small]
    run(installed, "distill", "--teacher", "flow", "--set", "student.t_start=0.9", "--out", str(tmp_path / "run"), *options)
    code = NOISE.replace("RUN", str(tmp_path / "run"))
    subprocess.run([sys.executable, "-c", code], env=installed, check=True)
