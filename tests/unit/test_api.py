"""What the commands do, from Python."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import matchlib
from matchlib import Teacher
from matchlib.errors import SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.plugins.interpolants import NoisyLinear
from matchlib.runs.recipes import recipe

pytestmark = pytest.mark.runs

FLOW = matchlib.families.flow().model(paired=False)
QUICK: dict[str, Any] = {
    "teacher.network": {"name": "mlp", "width": 8, "depth": 1},
    "teacher.training.steps": 2,
    "evaluation.draws": 1,
    "evaluation.metrics": ("frechet-raw",),
}


def test_distill_of_a_guided_teacher_warns_and_it_stays_guided(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "matchlib")
    guided = {"teacher.guidance": 2.0, "teacher.guidance_interval": (0.1, 0.7), "teacher.training.label_dropout": 0.2}
    matchlib.distill("flow", steps=4, settings={**QUICK, **guided}, out=tmp_path / "run")
    assert "minimises no matching loss" in caplog.text
    teacher = matchlib.load(tmp_path / "run", of="teacher")
    teacher.sample(3)
    assert (teacher.module.guidance, teacher.module.guidance_interval) == (2.0, (0.1, 0.7))
    assert teacher.nfe == 2 * 50  # 25 Heun steps, each evaluation asked with and without the label
    assert teacher.sample_batch(20, labels="balanced").label.bincount().tolist() == [2] * 10


def test_distill_initialises_a_student_of_another_size_from_what_fits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "matchlib")
    settings = {
        **QUICK,
        "teacher.network": {"name": "mlp", "width": 8, "depth": 2},
        "student.network": {"name": "mlp", "width": 8, "depth": 1},
        "student.init_from_teacher": True,
    }
    matchlib.distill("flow", steps=2, settings=settings, out=tmp_path / "run")
    assert "initialised from the teacher" in caplog.text and "modulate" in caplog.text
    student = matchlib.load(tmp_path / "run")
    assert student.module.field.model.objective == FLOW.objective  # equal weights mean the same
    assert student.sample(2).shape == (2, 1, 8, 8)


def test_distill_lays_a_recipe_under_whatever_else_is_given(tmp_path: Path) -> None:
    for name, more in {"as it is": {}, "changed": {"trainer.critic_lr_scale": 3.0}}.items():
        matchlib.distill(recipe="correct", steps=2, settings={**QUICK, **more}, out=tmp_path / name)
    trees = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("as it is", "changed")]
    assert trees[0]["loss"] == trees[1]["loss"] == {"name": "realuid", **recipe("correct")["loss"]}
    assert [tree["trainer"]["critic_lr_scale"] for tree in trees] == [recipe("correct")["trainer"]["critic_lr_scale"], 3.0]


def test_distill_takes_any_module_as_a_teacher(tmp_path: Path) -> None:
    """Any module with forward(state, time, condition): here the exact field of a Gaussian, which is no registered network."""

    class Exact(GaussianField):
        def __init__(self) -> None:
            super().__init__(FLOW, Mixture.normal(dimension=2))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, *seen: object) -> torch.Tensor:
            return self.scale * super().forward(*seen).to(torch.float32)  # type: ignore[arg-type]

    student = matchlib.distill(Teacher(Exact(), FLOW), data="checkerboard", steps=4, out=tmp_path / "run", settings={"evaluation.draws": 1})
    assert student.sample(3).shape == (3, 2)


def test_train_accepts_an_interpolant_object(tmp_path: Path) -> None:
    teacher = matchlib.train("flow", "moons", interpolant=NoisyLinear(0.3), steps=2, out=tmp_path / "run", settings=QUICK)
    assert teacher.config.model.interpolant == NoisyLinear(0.3)


@pytest.mark.parametrize(
    ("teacher", "data", "message"), [(nn.Identity(), "moons", "from_callable"), ("flow", torch.ones(9, 2), "from_arrays")]
)
def test_distill_says_how_modules_and_arrays_are_given(teacher: Any, data: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        matchlib.distill(teacher, data)


def test_start_run_refuses_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match="is not empty"):
        matchlib.train("flow", "moons", steps=2, out=tmp_path, settings=QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_resume_refuses_a_student_of_other_settings(tmp_path: Path) -> None:
    import shutil

    for seed in (0, 1):
        matchlib.distill("flow", "moons", steps=2, seed=seed, out=tmp_path / str(seed), settings=QUICK)
    shutil.rmtree(tmp_path / "0" / "student")
    (tmp_path / "0" / "evaluation.json").unlink()
    shutil.copytree(tmp_path / "1" / "student", tmp_path / "0" / "student")
    with pytest.raises(matchlib.MatchlibError, match="was made with other settings"):
        matchlib.resume(tmp_path / "0")


def test_resume_works_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths in config.yaml do not depend on where the run was started."""
    import numpy as np

    (tmp_path / "elsewhere").mkdir()
    np.savez(tmp_path / "mine.npz", data=np.random.default_rng(0).normal(size=(50, 2)))
    monkeypatch.chdir(tmp_path)
    matchlib.distill("flow", "mine.npz", steps=2, out="run", settings=QUICK)
    (tmp_path / "run" / "evaluation.json").unlink()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert matchlib.resume(tmp_path / "run").sample(2).shape == (2, 2)


@pytest.mark.parametrize("level", ["INFO", pytest.param("ERROR", marks=pytest.mark.slow)])
def test_train_shows_progress_unless_it_is_silenced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # so that the teacher is trained
    code = f"""import logging, matchlib
logging.getLogger("matchlib").setLevel(logging.{level})
matchlib.train("flow", "moons", steps=2, out={str(tmp_path / "run")!r}, settings={QUICK!r})"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    assert ("teacher 2/2" in shown) == (level == "INFO")


def test_resume_of_a_running_run_is_refused_and_touches_nothing(
    tmp_path: Path, finished: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """It would set the checkpoints of the other process aside."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "evaluation.json").unlink()
    holding = f"import time; from pathlib import Path; from matchlib.io import lock; lock(Path({str(run)!r})); print('locked', flush=True)"
    holding += "; time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", holding], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
        for argv in (("resume", run), ("evaluate", run)):
            code, _, err = cli(*argv)
            assert (code, err.count("\n")) == (2, 1)
            assert f"another process works in {run} ({process.pid} on " in err
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == before
    finally:
        process.kill()
        process.wait()


def test_a_finished_run_leaves_its_folder_to_others_and_no_file_open(tmp_path: Path) -> None:
    """Or a process that makes many runs would come to the end of its files."""
    for name in ("first", "second"):
        matchlib.distill("flow", "moons", steps=2, out=tmp_path / name, settings=QUICK)
    matchlib.evaluate(tmp_path / "first")
    held = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink() and path.exists()]
    assert not [path for path in held if path.startswith(str(tmp_path))]
    code = f"from pathlib import Path; from matchlib.io import lock; lock(Path({str(tmp_path / 'first')!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_resume_makes_damaged_scores_of_a_finished_run_anew(
    finished: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    scores = run / "evaluation.json"
    before = json.loads(scores.read_text())
    scores.write_bytes(scores.read_bytes()[:-20])
    code, out, err = cli("resume", run)
    assert (code, "nothing to resume" in out) == (0, False), err
    assert json.loads(scores.read_text())["held_out"] == before["held_out"]


def test_resume_notices_that_a_finished_run_lost_what_it_made(
    finished: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    weights = load_file(run / "student" / "model.safetensors")
    (run / "student" / "model.safetensors").unlink()
    code, out, err = cli("resume", run)
    assert code == 2 and str(run / "student") in err, (out, err)
    shutil.rmtree(run / "student")
    code, out, err = cli("resume", run)
    assert code == 0, err
    again = load_file(run / "student" / "model.safetensors")
    assert all(torch.equal(x, again[key]) for key, x in weights.items())


def test_resume_of_a_finished_run_whose_settings_were_edited_is_refused(
    finished: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """What was made with the former settings may not pass for the result of these."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("seed: 0", "seed: 1"))
    code, _, err = cli("resume", run)
    assert code == 2 and "was made with other settings" in err, err
