"""An environment with only torch, numpy, safetensors, pydantic and pyyaml imports the plugins, loads a student and samples it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BLOCKED = """
import sys
MISSING = {"ot", "scipy", "sklearn", "torchdiffeq", "matplotlib", "typer", "rich", "hypothesis", "diffusers"}
class Without:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in MISSING else self.finder.find_spec(name, *rest)
sys.meta_path[:] = map(Without, sys.meta_path)
import matchlib, torch
"""


def run(code: str) -> None:
    result = subprocess.run([sys.executable, "-c", BLOCKED + code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_plugins_import_without_heavy_packages() -> None:
    run(
        "for group in 'couplings interpolants objectives families students losses samplers networks datasets metrics'.split():\n"
        "    assert list(getattr(matchlib, group).values())"
    )


def test_vp_discrete_needs_no_scipy() -> None:
    run("assert matchlib.interpolants.vp_discrete().coefficients(torch.tensor([0.5])).b.item() > 0")


def test_load_samples_a_student_without_heavy_packages(finished: Path) -> None:
    run(f"assert matchlib.load({str(finished)!r}).sample(3, labels=2).shape == (3, 1, 8, 8)")
