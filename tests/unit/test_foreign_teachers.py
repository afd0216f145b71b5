"""Teachers from outside, through everything that a run can do: a module of the user's own, a diffusers pipeline, a torchcfm network.

Each is distilled, killed, resumed to equal weights, loaded, sampled, evaluated, and is the teacher and the student of further runs, on the
command line and in Python.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.trainings import StopAt
from torch import Tensor, nn

import matchlib
from matchlib import Teacher
from matchlib.adapters import open_teacher
from matchlib.errors import ArtifactError, Interrupted, MatchlibError
from matchlib.runs.api import start_run
from matchlib.runs.settings import resolve
from matchlib.training.checkpoint import Checkpoints

pytestmark = pytest.mark.runs

Cli = Callable[..., tuple[int, str, str]]

PLAIN = """
import torch
from torch import nn
import matchlib

class Drop(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def forward(self, state, time):
        return self.layers(torch.cat([state, time[:, None]], 1))

torch.manual_seed(0)
net = Drop()
model = matchlib.families.flow().model(paired=False)
teacher = matchlib.Teacher.from_callable(net, model, time=lambda t: 1 - t, output=-1.0, normalization=(0.0, 1.0))
"""

TORCHCFM = """
import torch
from torchcfm.models.models import MLP
torch.manual_seed(0)
net = MLP(2, w=8, time_varying=True)
"""


@dataclass(frozen=True)
class Case:
    """A teacher by name, the data it is for, and whether its artifact is loaded by running code."""

    teacher: str
    data: str
    shape: tuple[int, ...]
    runs_code: bool


def save_pipeline(folder: Path) -> Path:
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,), "norm_num_groups": 2}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, dropout=0.1, **blocks)
    unet.save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    folder = tmp_path_factory.mktemp("teachers")
    for name, text in (("plain", PLAIN), ("torchcfm", TORCHCFM)):
        (folder / f"{name}.py").write_text(text)
    rng = np.random.default_rng(0)
    np.savez(folder / "points.npz", data=rng.normal(size=(60, 2)))
    np.savez(folder / "images.npz", data=rng.integers(0, 256, size=(40, 1, 8, 8)).astype(np.uint8))
    points, images = str(folder / "points.npz"), str(folder / "images.npz")
    return {
        "plain": Case(f"{folder}/plain.py:teacher", points, (2,), True),
        "diffusers": Case(f"diffusers:{save_pipeline(folder / 'pipeline')}", images, (1, 8, 8), False),
        "torchcfm": Case(f"torchcfm:{folder}/torchcfm.py:net", points, (2,), False),
    }


@pytest.fixture(params=["plain", "diffusers", "torchcfm"])
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    return cases[request.param]


QUICK: dict[str, Any] = {
    "teacher.examine": False,
    "teacher.sampler": {"name": "ode", "method": "euler", "steps": 2},
    "trainer.batch_size": 4,
    "trainer.checkpoint_every": 2,
    "evaluation.draws": 1,
    "evaluation.metrics": ["frechet-raw"],
}
STEPS = 8


def distill(case: Case, out: Path, *more: Any, teacher: object = None, steps: int = STEPS) -> list[object]:
    """The command that distils a teacher."""
    settings = [part for path, x in QUICK.items() for part in ("--set", f"{path}={x}")]
    return ["distill", "--teacher", teacher or case.teacher, "--data", case.data, "--out", out, "--steps", steps, *settings, *more]


def refused(result: tuple[int, str, str], what: str = "--trust") -> bool:
    """Whether a command was refused in one line that says what to do."""
    code, _, err = result
    return code == 2 and len(err.strip().splitlines()) == 1 and what in err


def artifact_bytes(run: Path) -> list[bytes]:
    return [(run / kind / "model.safetensors").read_bytes() for kind in ("teacher", "student")]


@pytest.fixture(scope="module")
def finished_runs(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Case], Path]:
    """The finished distillation of a case, made by the command line where it is first asked for."""
    from matchlib_cli.app import main

    made: dict[str, Path] = {}

    def run_of(case: Case) -> Path:
        if case.teacher not in made:
            made[case.teacher] = tmp_path_factory.mktemp("foreign") / "run"
            with pytest.raises(SystemExit) as ended:
                main([str(part) for part in distill(case, made[case.teacher])])
            assert not ended.value.code
        return made[case.teacher]

    return run_of


@pytest.fixture
def whole(case: Case, finished_runs: Callable[[Case], Path]) -> Path:
    return finished_runs(case)


@pytest.fixture
def trust(case: Case) -> list[str]:
    return ["--trust"] if case.runs_code else []


# -- the command line ------------------------------------------------------------------------------------------------------


def test_resume_of_a_foreign_teachers_run_by_command(
    case: Case, whole: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before a checkpoint is written, as a kill does it, and resumed: equal bytes; a FILE.py is run again with --trust only."""
    write, count = Checkpoints.write, iter(range(9))

    def killed(*args: Any) -> Path:
        if next(count) == 2:
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(Checkpoints, "write", killed)
    assert cli(*distill(case, tmp_path / "cut"))[0] == 130
    monkeypatch.undo()
    assert not (tmp_path / "cut" / "student").exists()
    code = ["--trust"] if ".py:" in case.teacher else []
    assert not code or refused(cli("resume", tmp_path / "cut"))
    assert cli("resume", tmp_path / "cut", *code)[0] == 0
    assert artifact_bytes(tmp_path / "cut") == artifact_bytes(whole)


def test_resume_after_sigkill_ends_with_equal_weights(
    cases: dict[str, Case], finished_runs: Callable[[Case], Path], tmp_path: Path
) -> None:
    case, out = cases["plain"], tmp_path / "cut"
    command = [sys.executable, "-m", "matchlib_cli", *map(str, distill(case, out))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + 60
    while not list(out.glob("checkpoints/student-*.safetensors")) and time.time() < end:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert list(out.glob("checkpoints/student-*.safetensors"))
    (out / "evaluation.json").unlink(missing_ok=True)  # where it was faster than the kill
    matchlib.resume(out, trust=True)
    assert artifact_bytes(out) == artifact_bytes(finished_runs(case))


def test_sample_and_evaluate_of_a_foreign_teachers_run_by_command(
    case: Case, whole: Path, trust: list[str], cli: Cli, tmp_path: Path
) -> None:
    for of in ("student", "teacher"):
        argv = ["sample", whole, "--of", of, "-n", 5, "--out", tmp_path / f"{of}.npz"]
        assert not trust or refused(cli(*argv))
        code, _, err = cli(*argv, *trust)
        assert (code, err) == (0, "")
        assert np.load(tmp_path / f"{of}.npz")["data"].shape == (5, *case.shape)
    assert not trust or refused(cli("evaluate", whole))
    code, out, err = cli("evaluate", whole, *trust)
    assert (code, err) == (0, "") and "student" in out and "teacher" in out


def test_foreign_runs_are_teachers_and_students_of_further_runs_by_command(
    case: Case, whole: Path, trust: list[str], cli: Cli, tmp_path: Path
) -> None:
    assert not trust or refused(cli(*distill(case, tmp_path / "second", teacher=whole, steps=2)))
    assert not (tmp_path / "second").exists()
    for name, argv in (
        ("second", distill(case, tmp_path / "second", *trust, teacher=whole, steps=2)),
        ("on", distill(case, tmp_path / "on", "--student", whole, steps=2)),
    ):
        code, _, err = cli(*argv)
        assert (code, err) == (0, ""), name
        assert (tmp_path / name / "teacher" / "model.safetensors").read_bytes() == (whole / "teacher" / "model.safetensors").read_bytes()
        assert cli("sample", tmp_path / name, "--out", tmp_path / "x.npz", *trust)[0] == 0


# -- Python ----------------------------------------------------------------------------------------------------------------


def test_foreign_teachers_in_python(case: Case, whole: Path, tmp_path: Path) -> None:
    """A Teacher object, interrupted and resumed with it; loaded, sampled, evaluated; teacher and student of further runs."""
    teacher = open_teacher(case.teacher, trust=True)
    assert teacher is not None
    asked = {"teacher.name": "python:teacher", "data.name": case.data, "trainer.steps": STEPS, "out": str(tmp_path / "cut")}
    with pytest.raises(Interrupted):
        start_run(resolve("distill", options=asked, settings=QUICK), teacher=teacher, should_stop=StopAt(5)).execute()
    with pytest.raises(ArtifactError, match="give it again, teacher="):
        matchlib.resume(tmp_path / "cut")
    resumed = matchlib.resume(tmp_path / "cut", teacher=teacher)
    assert artifact_bytes(tmp_path / "cut") == artifact_bytes(whole)
    for loaded in (matchlib.load(tmp_path / "cut", teacher=teacher), matchlib.load(whole, trust=True)):
        assert torch.equal(loaded.sample(3, seed=1), resumed.sample(3, seed=1))
    assert "student" in matchlib.evaluate(tmp_path / "cut", teacher=teacher)
    further = {"steps": 2, "settings": QUICK, "trust": True}
    second = matchlib.distill(whole, case.data, out=tmp_path / "second", **further)
    on = matchlib.distill(teacher, case.data, whole, out=tmp_path / "on", **further)
    assert second.sample(2).shape == on.sample(2).shape == (2, *case.shape)


def test_load_and_distill_in_python_run_a_file_with_trust_only(cases: dict[str, Case], finished_runs: Callable[[Case], Path]) -> None:
    whole = finished_runs(cases["plain"])
    for refuses in (lambda: matchlib.load(whole), lambda: matchlib.evaluate(whole), lambda: matchlib.distill(whole, cases["plain"].data)):
        with pytest.raises(MatchlibError, match="trust=True"):
            refuses()


def test_distill_of_a_plain_module_by_its_name_says_how_it_becomes_a_teacher(cases: dict[str, Case], cli: Cli, tmp_path: Path) -> None:
    case = cases["plain"]
    assert refused(cli(*distill(case, tmp_path / "run", teacher=case.teacher.replace(":teacher", ":net"))), "must be a matchlib.Teacher")
    assert not (tmp_path / "run").exists()


# -- networks and their weights --------------------------------------------------------------------------------------------

FLOW = matchlib.families.flow().model(paired=False)
SHORT = {**QUICK, "trainer.batch_size": 8, "teacher.training.steps": 2}


class Tied(nn.Module):
    """One weight under two names, and a buffer that is a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(2, 2), nn.Linear(2, 2)
        self.leave.weight = self.enter.weight
        self.register_buffer("row", self.enter.weight.detach()[0])

    def forward(self, state: Tensor, time: Tensor) -> Tensor:
        return self.leave(self.enter(state).relu())


def teacher_of(network: nn.Module) -> Teacher:
    return Teacher.from_callable(network, FLOW, normalization=(0.0, 1.0))


def test_distill_of_a_network_with_tied_weights(cases: dict[str, Case], tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory; such a network ended in a traceback once its teacher was to be saved."""
    teacher = teacher_of(Tied())
    student = matchlib.distill(teacher, cases["plain"].data, steps=2, out=tmp_path / "run", settings=SHORT)
    assert torch.equal(matchlib.load(tmp_path / "run", teacher=teacher).sample(3), student.sample(3))


def test_resume_refuses_a_teacher_with_other_weights(cases: dict[str, Case], tmp_path: Path) -> None:
    """A file whose network is drawn anew, or a checkpoint that went on training, would be another run's teacher."""
    file = tmp_path / "drawn.py"
    file.write_text(PLAIN.replace("torch.manual_seed(0)", ""))
    matchlib.distill(f"{file}:teacher", cases["plain"].data, steps=2, out=tmp_path / "run", settings=SHORT)
    (tmp_path / "run" / "evaluation.json").unlink()
    torch.manual_seed(123)
    with pytest.raises(ArtifactError, match=r"has other weights than .*teacher, with which the run began"):
        matchlib.resume(tmp_path / "run", trust=True)


def test_distill_goes_on_with_a_student_of_a_listed_network_under_another_teacher(
    cases: dict[str, Case], finished_runs: Callable[[Case], Path], tmp_path: Path
) -> None:
    """The network is made again from its description, not taken for the teacher's; of any other network the refusal says so."""
    case = cases["torchcfm"]
    student = matchlib.distill("flow", case.data, finished_runs(case), steps=2, out=tmp_path / "run", settings=SHORT)
    assert student.sample(2).shape == (2, 2)
    assert matchlib.load(tmp_path / "run").sample(2).shape == (2, 2)
    plain = finished_runs(cases["plain"])
    with pytest.raises(MatchlibError, match="trust=True"):
        matchlib.distill("flow", case.data, plain, steps=2, out=tmp_path / "no", settings=SHORT)
    again = matchlib.distill("flow", case.data, plain, steps=2, out=tmp_path / "yes", settings=SHORT, trust=True)
    assert matchlib.load(tmp_path / "yes", trust=True).sample(2).shape == again.sample(2).shape


def test_a_file_may_import_modules_that_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is run, and when its function is called."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "velocities_beside.py").write_text("def velocity(x, t):\n    return -x\n")
    (tmp_path / "later_beside.py").write_text("arguments = ('state', 'time')\n")
    (tmp_path / "mine.py").write_text(
        "import matchlib\nfrom velocities_beside import velocity\n\n\ndef teacher():\n    import later_beside\n\n"
        "    model = matchlib.families['flow']().model(paired=False)\n"
        "    return matchlib.Teacher.from_callable(velocity, model, arguments=later_beside.arguments)\n"
    )
    assert isinstance(open_teacher(f"{tmp_path}/mine.py:teacher", trust=True), matchlib.Teacher)


def test_a_teacher_without_labels_has_a_student_without_labels_on_labelled_data(tmp_path: Path) -> None:
    """Labels that a network is never given are refused, and not taken and ignored; scores have them all the same."""
    settings = {"trainer.steps": 2, "trainer.batch_size": 8, "evaluation.samples": 60, "teacher.examine": False}
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)))
    model = matchlib.families.flow().model(paired=False)
    for arguments, labelled in ((("state",), False), (("state", "label"), True)):
        teacher = Teacher.from_callable(Named(net) if labelled else net, model, arguments=arguments, normalization=(0.0, 1.0))
        run = tmp_path / str(labelled)
        student = matchlib.distill(teacher=teacher, data="digits", out=run, settings=settings)
        assert student.config.network_spec.classes == (10 if labelled else None)
        report = matchlib.io.read_json(run / "evaluation.json")
        assert "clusters" not in report["features"]
        with nullcontext() if labelled else pytest.raises(MatchlibError, match="without labels"):
            student.sample(2, labels=3)


def test_settings_of_a_training_are_refused_where_a_teacher_or_student_is_finished(finished: Path, tmp_path: Path) -> None:
    """They would be taken and ignored; the sampler of a teacher is not of its training, and is taken."""
    data, run = matchlib.io.read_json(finished / "student" / "config.json")["data"]["name"], str(finished)
    settings: dict[str, Any] = {"trainer.steps": 2, "evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",)}
    for name, value in (
        ("teacher.interpolant", {"name": "trigonometric"}),
        ("teacher.coupling", {"name": "minibatch-ot"}),
        ("teacher.objective", {"name": "data"}),
        ("teacher.times", {"log_sigma": [0.0, 1.0]}),
        ("teacher.sees_source", False),
        ("teacher.normalization", (0.0, 2.0)),
    ):
        with pytest.raises(MatchlibError, match=f"{name} changes nothing"):
            matchlib.distill(run, data, out=tmp_path / "no", settings={**settings, name: value})
    for name, value in (("network", {"name": "mlp", "width": 16}), ("init_from_teacher", True), ("axes", 3)):
        with pytest.raises(MatchlibError, match=f"student.{name} changes nothing"):
            matchlib.distill(run, data, out=tmp_path / "no", settings={**settings, "student.name": run, f"student.{name}": value})
    euler = {"name": "ode", "method": "euler", "steps": 3}
    matchlib.distill(run, data, out=tmp_path / "run", settings={**settings, "teacher.sampler": euler})
    assert matchlib.io.read_json(tmp_path / "run" / "evaluation.json")["teacher"]["nfe"] == 3


class Named(nn.Module):
    """A network that is given labels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.scale = network, nn.Embedding(10, 1)

    def forward(self, state: Tensor, label: Tensor | None) -> Tensor:
        scale = 1.0 if label is None else self.scale(label)[:, :, None, None]
        return self.network(state) * scale
