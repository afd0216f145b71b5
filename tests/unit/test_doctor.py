"""The doctor finds planted mistakes and finds nothing where nothing is wrong, with exact fields of a mixture in two dimensions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures.trainings import StopAt
from sklearn.datasets import make_moons
from torch import Tensor, nn

import matchlib
from matchlib import MatchingModel, Teacher
from matchlib.algebra.records import Condition
from matchlib.algebra.times import TimeDistribution
from matchlib.data.dataset import Dataset
from matchlib.errors import DataError, IncompatibleError, Interrupted, SettingError
from matchlib.evaluation.doctor import Diagnosis, check_answer, examine, guess_normalization
from matchlib.evaluation.probe import Finding, Probe
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.registry import couplings, families, interpolants, networks, objectives
from matchlib.runs.api import start_run
from matchlib.runs.settings import resolve

CLASSES = 3


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of the samples is enough for exact fields."""
    monkeypatch.setitem(Probe.__init__.__kwdefaults__, "samples", 64)


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
def test_examine_finds_right_teachers_right(name: str) -> None:
    model = RIGHT[name]
    diagnosis = examine(Teacher(exact(model), model, DATA.moments(model.coupling)), DATA)
    assert diagnosis.mistakes == ()
    assert all(error < 1 for error in diagnosis.stated.errors)
    assert [note.partition(",")[0] for note in diagnosis.notes] == [f"units: data = {DATA.shift:.6g} + {DATA.scale:.6g} * model units"]


def test_diagnosis_notes_times_at_which_a_sound_teacher_is_worse_than_one_number() -> None:
    stated = Finding("as stated", "", (0.5, 1.2, 1.3, 0.9))
    diagnosis = Diagnosis((0.1, 0.2, 0.3, 0.4), stated, (), 1, None)
    assert diagnosis.notes == ("worse than one number at 2 of 4 times: a weak teacher there?",)
    assert replace(diagnosis, mistakes=("its sign is the opposite",)).notes == ()


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
    "weights not loaded": (lambda x, t, c: torch.zeros_like(x), "its weights were not loaded"),
    "weights not finite": (lambda x, t, c: FIELD(x, t, c) / 0, "answers are not finite"),
}


class _Planted(nn.Module):
    def __init__(self, read: Reading) -> None:
        super().__init__()
        self.read = read

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.read(state, time, condition)


@pytest.mark.parametrize("mistake", list(PLANTED))
def test_examine_names_a_planted_mistake(mistake: str) -> None:
    read, said = PLANTED[mistake]
    diagnosis = examine(Teacher(_Planted(read), FLOW), DATA)
    assert len(diagnosis.mistakes) == 1
    assert said in diagnosis.mistakes[0]


def _discrete(kind: str) -> MatchingModel:
    path = interpolants["vp-discrete"](kind=kind)
    return MatchingModel(couplings["independent"](), path, objectives["source"](), TimeDistribution(1e-3, 1.0))


LINEAR_BETA = exact(_discrete("linear"))


def _called(x: Tensor, t: Tensor) -> Tensor:
    return LINEAR_BETA(x, t, Condition(DATA.held_out.label[torch.arange(len(x)) % len(DATA.held_out.label)]))


OWN: dict[str, tuple[str, dict, str]] = {
    "squared cosine for a linear beta": ("squaredcos_cap_v2", {}, "noise schedule is another: vp-discrete, kind=linear; state"),
    "1,000 levels for 200": ("linear", {"count": 199, "time": lambda t: 999 * t}, "counted to 200; let time run to 199, not to 999"),
    "states halved": ("linear", {"latent": 0.5}, "at 2 times them; leave latent out"),
    "a sign too many": ("linear", {"output": -1.0}, "its sign is the opposite; negate output: give output=1"),
    "a turned time": ("linear", {"count": 999, "time": lambda t: 999 * (1 - t)}, "the other way; replace t by 1 - t in time"),
}


@pytest.mark.parametrize("mistake", list(OWN))
def test_examine_says_what_to_change_in_a_convention_that_was_given(mistake: str) -> None:
    kind, convention, said = OWN[mistake]
    count = convention.get("count", 1)
    given = {key: value for key, value in convention.items() if key != "count"}
    teacher = Teacher.from_callable(lambda x, t: _called(x, (t / count).clamp(1e-3, 1)), _discrete(kind), **given)
    (found,) = examine(teacher, DATA).mistakes
    assert said in found


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        (lambda t, x: x[:, :2] * t[:, None], ("state", "time")),
        (lambda x, t: x, ("state", "time", "label")),
        (lambda x, t, y: x + y[:, None], ("state", "time", "label")),
    ],
    ids=["swapped", "a label too many", "no label in the data"],
)
def test_examine_takes_a_path_and_says_in_one_line_that_a_network_cannot_be_asked(
    network: Callable, arguments: tuple, tmp_path: Path
) -> None:
    np.savez(tmp_path / "points.npz", data=np.random.default_rng(0).normal(size=(40, 2)))
    teacher = Teacher.from_callable(network, FLOW, arguments=arguments)
    with pytest.raises(IncompatibleError, match=r"does not fit .*points.npz: .* raises (Type|Index)Error") as refusal:
        examine(teacher, str(tmp_path / "points.npz"))
    assert "\n" not in str(refusal.value)


def test_examine_refuses_what_is_no_teacher_or_no_data() -> None:
    with pytest.raises(SettingError, match=r"examine takes a matchlib\.Teacher, got str"):
        examine("runs/digits", DATA)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="did you mean 'moons'"):
        examine(Teacher(FIELD, FLOW), "mons")


def test_examine_takes_guidance_for_no_mistake() -> None:
    """A guided teacher's answers are no conditional means; the field beneath them is what is examined."""
    assert examine(Teacher(FIELD, FLOW, guidance=4.0), DATA).mistakes == ()


@pytest.mark.parametrize("units", [(0.0, 1.0), (1.0, 12.0)])
def test_examine_names_data_in_other_units(units: tuple[float, float]) -> None:
    """The teacher was trained on normalised data and is given others."""
    diagnosis = examine(Teacher(FIELD, FLOW, normalization=units), DATA)
    assert "it was trained on data of mean 0 and standard deviation 1" in diagnosis.mistakes[0]


def test_examine_reports_every_evaluation() -> None:
    calls: list[tuple[int, int]] = []
    examine(Teacher(FIELD, FLOW), DATA, on_progress=lambda *call: calls.append(call))
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert all(done <= most for done, most in calls)


# -- before a run -----------------------------------------------------------------------------------------------------------


def test_check_answer_asks_a_fitting_teacher_at_the_middle_and_at_the_ends() -> None:
    calls = []

    def network(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        calls.append((x.shape, t.shape, y.tolist()))
        return x

    check_answer(Teacher.from_callable(network, FLOW, arguments=("state", "time", "label")), DATA)
    assert len(calls) == 2
    assert calls[0][:2] == ((3, 2), (3,))  # as many as no size of an event, so that nothing broadcasts by mistake
    assert calls[0][2][-1] == CLASSES - 1  # the last class, so that a network with too few fails now


CONVOLUTION, EMBEDDING = nn.Conv2d(3, 3, 1), nn.Embedding(2, 2)
UNFIT: dict[str, tuple[Callable, tuple[str, ...], str]] = {
    "channels": (lambda x, t: CONVOLUTION(x), ("state", "time"), "does not fit clusters: .* RuntimeError"),
    "order of arguments": (lambda t, x: x[:, :2] * t[:, None], ("state", "time"), "states the order of its arguments"),
    "too few arguments": (lambda x: x, ("state", "time"), r"states of shape \(3, 2\), times of shape \(3,\) and labels .*TypeError"),
    "too many arguments": (lambda x, t, y, z: x, ("state", "time", "label"), r"\(state, time, label\) raises TypeError"),
    "times without [:, None]": (lambda x, t: x * t, ("state", "time"), "RuntimeError"),
    "shape": (lambda x, t: x[:, :1], ("state", "time"), r"predicts shape \(1,\)"),
    "tuple": (lambda x, t: (x, x), ("state", "time"), "must return one tensor"),
    "not finite": (lambda x, t: x / 0 * 0, ("state", "time"), "not finite"),
    "too few classes": (lambda x, t, y: x + EMBEDDING(y), ("state", "time", "label"), "IndexError"),
}


@pytest.mark.parametrize("mistake", list(UNFIT))
def test_check_answer_says_in_one_line_what_does_not_fit(mistake: str) -> None:
    network, arguments, message = UNFIT[mistake]
    with pytest.raises(IncompatibleError, match=message) as refusal:
        check_answer(Teacher.from_callable(network, FLOW, arguments=arguments), DATA)
    assert "\n" not in str(refusal.value)


def test_check_answer_notices_labels_that_a_network_needs() -> None:
    network = Teacher.from_callable(lambda x, y: x + EMBEDDING(y), FLOW, arguments=("state", "label"))
    with pytest.raises(IncompatibleError, match=r"and no labels, .* raises TypeError"):
        check_answer(network, DATA.without_labels())


def test_guess_normalization_finds_what_the_teacher_was_trained_on() -> None:
    """An exact field of data in [-1, 1] or [0, 1], as they are, or normalised; None for a network that knows nothing."""
    low, high = DATA.limits
    for shift, scale in ((DATA.shift, DATA.scale), ((low + high) / 2, (high - low) / 2), (low, high - low), (0.0, 1.0)):
        field = networks["gaussian"](NetworkSpec((2,), CLASSES), FLOW, components=2)
        field.fit(DATA.normalized_as(shift, scale).train)
        assert guess_normalization(Teacher(field, FLOW), DATA) == pytest.approx((shift, scale))
    assert guess_normalization(Teacher(_Planted(lambda x, t, c: torch.zeros_like(x)), FLOW), DATA) is None


@pytest.mark.parametrize("units", ["as they are", "less their mean", "standard", "to [-1, 1]", "to [0, 1]"])
def test_guess_normalization_is_not_misled_by_the_mean_of_the_data(units: str) -> None:
    """In units in which the data have a mean, a multiple of the state errs more than in others, which is no merit of the teacher's."""
    data = Dataset.from_arrays("moons", make_moons(4000, noise=0.05, random_state=0)[0])
    low, high = data.limits
    shift, scale = {
        "as they are": (0.0, 1.0),
        "less their mean": (data.shift, 1.0),
        "standard": (data.shift, data.scale),
        "to [-1, 1]": ((low + high) / 2, (high - low) / 2),
        "to [0, 1]": (low, high - low),
    }[units]
    field = networks["gaussian"](NetworkSpec((2,)), FLOW, components=4)
    field.fit(data.normalized_as(shift, scale).train)
    assert guess_normalization(Teacher(field, FLOW), data) == pytest.approx((shift, scale), rel=1e-3, abs=1e-3)


def test_doctor_command_names_the_mistake_and_fails(tmp_path: Path, cli: Callable) -> None:
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
        (str(tmp_path), "is not the folder of a finished run, FILE.py:NAME nor diffusers:PATH"),
        ("flow", "teacher 'flow' is a family, which has no trained teacher"),
        (str(file), f"say which teacher of it is meant, {file}:NAME"),
    ):
        code, _, err = cli("doctor", name)
        assert code == 2
        assert said in err
        assert err.count("\n") == 1


def test_doctor_command_shows_how_far_it_is(tmp_path: Path, cli: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large network takes minutes; without a terminal a line now and then says how many evaluations are done."""
    monkeypatch.setattr("matchlib_cli.screen.PAUSE", 0.0)
    (tmp_path / "mine.py").write_text(
        "import torch, matchlib\n"
        "model = matchlib.families['flow']().model(paired=False)\n"
        "teacher = matchlib.Teacher.from_callable(torch.nn.Identity(), model, arguments=('state',))\n"
    )
    _, out, _ = cli("doctor", f"{tmp_path}/mine.py:teacher", "--data", "moons")
    lines = [line for line in out.splitlines() if line.startswith("evaluations of the teacher: ")]
    assert len(lines) > 8 and "1 of at most " in lines[0]


def test_a_teacher_in_a_file_is_distilled_and_resumed(tmp_path: Path, cli: Callable) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch, matchlib\n"
        "from matchlib.adapters import torchcfm\n"
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


class Levels(nn.Module):
    """A network with an embedding of 20 levels."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Embedding(20, 2)

    def forward(self, x: Tensor, k: Tensor) -> Tensor:
        return x + self.levels(k)


@pytest.mark.parametrize(
    ("time", "said"),
    [
        (
            lambda t: (20 * t - 1).round().long(),
            r"IndexError: .*given the times -1 and 19 for t = 0.001 and 1, .*TimeDistribution\(1 / K, 1.0\)",
        ),
        (lambda t: 20 * t - 1, r"an embedding needs whole numbers, time=lambda t: \(K \* t - 1\).round\(\).long\(\) .*from -0.98 to 19"),
    ],
)
def test_check_answer_says_which_times_an_embedding_was_given(time: Callable, said: str) -> None:
    model = replace(families["diffusion-vp"]().model(paired=False), times=TimeDistribution(1e-3, 1.0))
    with pytest.raises(IncompatibleError, match=said):
        examine(Teacher.from_callable(Levels(), model, time=time), "moons")


def test_teacher_refuses_a_model_that_is_only_a_name() -> None:
    with pytest.raises(SettingError, match=r"model is a matchlib.MatchingModel, such as matchlib.families\['diffusion-vp'\]"):
        Teacher.from_callable(Levels(), "diffusion-vp")


def test_a_teacher_that_takes_no_labels_is_not_blamed_for_ignoring_them() -> None:
    """Of labelled data: it is called with state and time alone, so there is nothing to ignore."""
    model = matchlib.families.flow().model(paired=False)
    data = matchlib.datasets.moons(samples=600)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Exact for the empirical distribution of the training points."""
        weights = (-((x[:, None] - (1 - t)[:, None, None] * data.train.data[None]).square().sum(-1)) / (2 * t[:, None] ** 2)).softmax(-1)
        mean = weights @ data.train.data
        return (x - mean) / t[:, None]

    teacher = Teacher.from_callable(velocity, model, arguments=("state", "time"), normalization=(data.shift, data.scale))
    assert not examine(teacher, data).mistakes


# -- before a run ----------------------------------------------------------------------------------------------------------


@pytest.mark.runs
def test_a_teacher_made_elsewhere_is_examined_before_it_is_distilled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One whose sign is wrong is warned of, with what to do; a right one is not, and no resume asks again."""
    caplog.set_level("INFO", "matchlib")
    model = RIGHT["flow"]
    right, wrong = (Teacher(_Signed(exact(model), sign), model, normalization=(DATA.shift, DATA.scale)) for sign in (1.0, -1.0))
    quick = {"evaluation.draws": 1, "evaluation.metrics": ["frechet-raw"], "student.network": {"name": "mlp", "width": 8, "depth": 1}}

    def said(teacher: Teacher, name: str, **more: object) -> str:
        caplog.clear()
        matchlib.distill(teacher, data=DATA, steps=2, out=tmp_path / name, settings={**quick, **more})
        return caplog.text

    assert "a likely mistake: its sign is the opposite" in said(wrong, "wrong")
    assert "no mistake found" in said(right, "right")
    assert "mistake" not in said(wrong, "unasked", **{"teacher.examine": False})
    caplog.clear()
    matchlib.resume(tmp_path / "wrong", teacher=wrong, data=DATA)
    assert "mistake" not in caplog.text


class _Signed(nn.Module):
    def __init__(self, field: nn.Module, sign: float) -> None:
        super().__init__()
        self.field, self.sign = field, sign

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.sign * self.field(state, time, condition)


@pytest.mark.runs
def test_the_examination_before_a_run_can_be_interrupted(tmp_path: Path) -> None:
    model = RIGHT["flow"]
    teacher = Teacher(_Signed(exact(model), 1.0), model, normalization=(DATA.shift, DATA.scale))
    options = {"teacher.name": "python:teacher", "data.name": "python:clusters", "out": str(tmp_path / "run")}
    settings = resolve("distill", options=options, settings={"student.network": {"name": "mlp"}})
    with pytest.raises(Interrupted, match="while examining"):
        start_run(settings, teacher=teacher, data=DATA, should_stop=StopAt(7)).execute()
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.slow
def test_a_unet_of_a_million_weights_is_examined_in_twenty_seconds() -> None:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3, "block_out_channels": (24, 48, 64)}
    unet = UNet2DModel(sample_size=32, in_channels=3, out_channels=3, layers_per_block=2, norm_num_groups=8, **blocks)
    assert 0.9e6 < sum(weight.numel() for weight in unet.parameters()) < 1.2e6
    teacher = matchlib.adapters.of_model(unet, {"_class_name": "DDPMScheduler", **_ddpm()})
    pixels = np.random.default_rng(0).integers(0, 256, (500, 3, 32, 32), dtype=np.uint8)
    begin = time.monotonic()
    examine(teacher, Dataset.from_arrays("noise", pixels))
    assert time.monotonic() - begin < 20


def _ddpm() -> dict[str, object]:
    from diffusers import DDPMScheduler

    return dict(DDPMScheduler().config)
