"""The doctor finds planted mistakes and finds nothing where nothing is wrong, with exact fields of a mixture in two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib import MatchingModel, Teacher
from matchlib.algebra.records import Condition
from matchlib.algebra.times import TimeDistribution
from matchlib.data.dataset import Dataset
from matchlib.evaluation.doctor import examine
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.registry import couplings, families, interpolants, networks, objectives

CLASSES = 3


def _dataset() -> Dataset:
    """Three classes of two clusters each, and sources that are noisy rotations of them."""
    rng = np.random.default_rng(0)
    label = rng.integers(CLASSES, size=1200)
    centre = rng.normal(size=(CLASSES, 2, 2)) * 3 + 1
    data = centre[label, rng.integers(2, size=1200)] + 0.4 * rng.normal(size=(1200, 2))
    source = data @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + rng.normal(size=(1200, 2))
    return Dataset.from_arrays("clusters", data, source=source, labels=label)


DATA = _dataset()
DATA_HEADS = MatchingModel(
    couplings["independent-data"](), interpolants["noisy-linear"](), objectives["joint"](), TimeDistribution(1e-3, 0.999)
)
RIGHT: dict[str, MatchingModel] = {
    "flow": families["flow"]().model(paired=False),
    "diffusion VP": families["diffusion-vp"]().model(paired=False),
    "diffusion EDM": families["diffusion"]().model(paired=False),
    "bridge, paired": families["bridge"]().model(paired=True),
    "bridge, unpaired": replace(families["bridge"]().model(paired=True), coupling=couplings["independent-data"](), sees_source=False),
    "interpolant, one-sided": families["interpolant"]().model(paired=False),
    "interpolant, two-sided": DATA_HEADS,
}


def exact(model: MatchingModel) -> nn.Module:
    field = networks["gaussian"](NetworkSpec((2,), CLASSES, model.sees_source), model, components=2)
    field.fit(DATA.train)
    return field


@pytest.mark.parametrize("name", list(RIGHT))
def test_a_right_teacher_is_found_right(name: str) -> None:
    model = RIGHT[name]
    diagnosis = examine(Teacher(exact(model), model, DATA.moments(model.coupling)), DATA)
    assert diagnosis.mistakes == ()
    assert all(error < 1 for error in diagnosis.stated.errors)


FLOW = RIGHT["flow"]
FIELD = exact(FLOW)
READ = {name: Teacher(FIELD, FLOW).view(objectives[name]()) for name in ("source", "data")}
Reading = Callable[[Tensor, Tensor, Condition], Tensor]
PLANTED: dict[str, tuple[Reading, str]] = {
    "time runs the other way": (lambda x, t, c: FIELD(x, 1 - t, c), "time runs the other way; give time=lambda t: 1 - t"),
    "the sign is wrong": (lambda x, t, c: -FIELD(x, t, c), "its sign is the opposite"),
    "torchcfm taken as it is": (lambda x, t, c: -FIELD(x, 1 - t, c), "time runs the other way and its sign is the opposite"),
    "predicts noise": (READ["source"], "it predicts epsilon, not velocity"),
    "predicts data": (READ["data"], "it predicts data, not velocity"),
    "a thousand steps": (lambda x, t, c: FIELD(x, (t / 999).clamp(0, 1), c), "time is counted to 1,000; give time=lambda t: 999"),
    "another noise schedule": (lambda x, t, c: FIELD(x, t**3, c), "its noise schedule is another"),
    "labels off by one": (lambda x, t, c: FIELD(x, t, replace(c, label=(c.label + 1) % CLASSES)), "labels are off by one"),
    "labels ignored": (lambda x, t, c: FIELD(x, t, replace(c, label=None)), "labels make no difference"),
    "weights not loaded": (lambda x, t, c: torch.zeros_like(x), "its weights were probably not loaded"),
    "weights not finite": (lambda x, t, c: FIELD(x, t, c) / 0, "answers are not finite"),
}


class _Planted(nn.Module):
    def __init__(self, read: Reading) -> None:
        super().__init__()
        self.read = read

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.read(state, time, condition)


@pytest.mark.parametrize("mistake", list(PLANTED))
def test_a_planted_mistake_is_named(mistake: str) -> None:
    read, said = PLANTED[mistake]
    diagnosis = examine(Teacher(_Planted(read), FLOW), DATA)
    assert len(diagnosis.mistakes) == 1
    assert said in diagnosis.mistakes[0]


def test_guidance_is_no_mistake() -> None:
    """A guided teacher's answers are no conditional means; the field beneath them is what is examined."""
    assert examine(Teacher(FIELD, FLOW, guidance=4.0), DATA).mistakes == ()


@pytest.mark.parametrize("units", [(0.0, 1.0), (1.0, 12.0)])
def test_data_in_other_units_are_named(units: tuple[float, float]) -> None:
    """The teacher was trained on normalised data and is given others."""
    diagnosis = examine(Teacher(FIELD, FLOW, normalization=units), DATA)
    assert "it was trained on data scaled to mean 0 and standard deviation 1" in diagnosis.mistakes[0]


def test_the_command_names_the_mistake_and_fails(tmp_path: Path, cli: Callable) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch, matchlib\n"
        "net = torch.nn.Identity()\n"
        "model = matchlib.families['flow']().model(paired=False)\n"
        "def teacher():\n    return matchlib.Teacher.from_callable(net, model, arguments=('state',))\n"
        "broken = 3\n"
    )
    code, out, _ = cli("doctor", f"{file}:teacher", "--data", "moons")
    assert code == 2
    assert "likely mistake: " in out
    for name, said in (
        (f"{file}:techer", "did you mean 'teacher'?"),
        (f"{file}:broken", "must be a matchlib.Teacher"),
        (f"{tmp_path / 'no.py'}:teacher", "there is no file"),
        (f"{file}:teacher", "give --data"),
        (str(tmp_path), "is not the folder of a finished run"),
    ):
        code, _, err = cli("doctor", name)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1


def test_a_teacher_in_a_file_is_distilled_and_resumed(tmp_path: Path, cli: Callable) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch, matchlib\n"
        "from matchlib.adapters.flows import torchcfm\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = torch.nn.Linear(2, 2)\n"
        "    def forward(self, t, x):\n        return self.layer(x)\n"
        "teacher = torchcfm(Net())\n"
    )
    small = [
        "--steps",
        "2",
        "--set",
        "evaluation={draws: 1, metrics: [frechet-raw]}",
        "--set",
        "student.network={name: mlp, width: 8, depth: 1}",
    ]
    code, _, err = cli("distill", "--teacher", f"{file}:teacher", "--data", "checkerboard", "--out", tmp_path / "run", *small)
    assert (code, err) == (0, "")
    assert cli("resume", tmp_path / "run")[0] == 0
    assert matchlib.load(tmp_path / "run").sample(3).shape == (3, 2)
