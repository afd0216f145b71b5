"""Components: what a run is made of, and what is refused before it begins."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib import Dataset, MatchingModel, Teacher
from matchlib.algebra.records import Condition
from matchlib.algebra.times import TimeDistribution
from matchlib.distillation.defaults import comparison_times, learning_rate, principal_variances
from matchlib.errors import ArtifactError, IncompatibleError, SettingError, UnknownNameError
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.registry import families
from matchlib.runs.artifact import read_config
from matchlib.runs.build import build, device_of, settings_digest
from matchlib.runs.components import Components
from matchlib.runs.settings import resolve

FLOW = matchlib.families.flow().model(paired=False)


def components(**settings: Any) -> Components:
    return build(resolve("distill", settings={"device": "cpu", **settings}))


def test_build_critic_network_and_lr_scales() -> None:
    """The critic's network is the one asked for, from scratch, with a step size of its own; factors multiply the default ones."""
    plain = components().distillation
    other = components(
        **{"trainer.critic_network": {"name": "mlp", "width": 24}, "trainer.student_lr_scale": 0.5, "trainer.critic_lr_scale": 3.0}
    ).distillation
    assert plain is not None and other is not None
    assert [parts.critic.network.enter.out_features for parts in (plain, other)] == [192, 24]
    assert other.student_lr == plain.student_lr / 2
    assert plain.critic_lr == 2 * learning_rate(plain.critic)
    assert other.critic_lr == pytest.approx(3 * 2 * learning_rate(other.critic))


@pytest.mark.parametrize("name", list(families))
def test_build_compares_a_student_only_where_its_teacher_was_trained(name: str) -> None:
    """The family's times for distillation are cut to those of the teacher; a setting changes a part of them."""

    def times(**trainer: Any) -> TimeDistribution:
        trained = {"teacher.name": name, "teacher.times": {"t_min": 0.3, "t_max": 0.6}, "data.labels": False}
        parts = components(**trained, **{f"trainer.times.{key}": value for key, value in trainer.items()}).distillation
        assert parts is not None
        return parts.times

    own = times()
    assert (own.t_min, own.t_max) == (0.3, 0.6)
    assert times(t_min=0.4) == TimeDistribution(0.4, 0.6, own.log_sigma)
    assert times(log_sigma=None) == TimeDistribution(0.3, 0.6)


def test_build_distils_a_given_teacher_at_high_noise_times() -> None:
    """Own callables get what the families have."""
    teacher = Teacher.from_callable(nn.Identity(), FLOW, arguments=("state",))
    settings = resolve("distill", settings={"teacher.name": "python:teacher", "student.network.name": "mlp"})
    built = build(settings, teacher=teacher)
    assert built.distillation is not None
    assert built.distillation.times == comparison_times(principal_variances(built.data.train.data)).within(FLOW.times)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda x: x, "argument"),
        (lambda x, t: x[:, :, :4], "predicts shape"),
        (lambda x, t: x / 0.0 * 0.0, "finite"),
        (nn.Linear(3, 3), "argument"),
    ],
)
def test_build_asks_a_given_teacher_once_and_refuses_what_does_not_fit(network: Any, message: str, tmp_path: Path) -> None:
    """A teacher that does not fit its data is refused in one line, before a folder is made."""
    teacher = Teacher.from_callable(network, FLOW)
    with pytest.raises(IncompatibleError) as error:
        matchlib.distill(teacher, "digits", out=tmp_path / "run", settings={"student.network.name": "mlp"})
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_build_of_a_python_teacher_that_is_not_given_says_so() -> None:
    with pytest.raises(ArtifactError, match="given in Python: give it again, teacher="):
        build(resolve("distill", settings={"teacher.name": "python:teacher"}))
    with pytest.raises(ArtifactError, match="given in Python: give it again, data="):
        build(resolve("distill", settings={"data.name": "python:mine"}))


def test_build_runs_no_code_of_a_configuration(tmp_path: Path) -> None:
    """A file that the settings name is executed only with trust."""
    (tmp_path / "mine.py").write_text("raise SystemExit('executed')\n")
    with pytest.raises(SettingError, match="trust"):
        build(resolve("distill", config={"teacher": {"name": f"{tmp_path}/mine.py:teacher"}}))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "trained with dropped labels"),
        ({"data.labels": False, "teacher.training.label_dropout": 0.1}, "needs a teacher with labels"),
    ],
)
def test_build_refuses_guidance_without_what_it_needs(more: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatibleError, match=message):
        components(**{"teacher.guidance": 2.0, **more})


def test_build_names_the_nearest_teacher() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'flow'"):
        components(**{"teacher.name": "flwo"})


def test_device_of_refuses_meta() -> None:
    with pytest.raises(SettingError, match="device 'meta' is not available"):
        device_of("meta")


def test_settings_digest_ignores_how_the_work_is_done() -> None:
    base, other = (resolve("distill", settings={"trainer.log_every": n, "trainer.engine.micro_batch_size": n}) for n in (3, 4))
    assert settings_digest(base, "student") == settings_digest(other, "student")
    assert settings_digest(base, "student") != settings_digest(resolve("distill", settings={"seed": 1}), "student")


# -- normalization of a teacher from outside -------------------------------------------------------------------------------

CLUSTERS = Dataset.from_arrays("clusters", np.random.default_rng(0).normal(size=(800, 2)) * 0.6 + np.array([[3.0, -1.0], [0.5, 2.0]] * 400))
RNG = np.random.default_rng(0)
SHADES = RNG.beta(2, 4, size=(300, 2)) @ RNG.uniform(0, 0.5, size=(2, 9)) + 0.02 * RNG.normal(size=(300, 9))
BYTES = Dataset.from_arrays("bytes", (255 * SHADES.clip(0, 1)).round().astype(np.uint8).reshape(300, 1, 3, 3))  # neighbours are alike


class Counted(nn.Module):
    """The exact field of data in certain units, which counts its calls."""

    def __init__(self, data: Dataset, model: MatchingModel, normalization: tuple[float, float]) -> None:
        super().__init__()
        self.field = matchlib.networks["gaussian"](NetworkSpec(data.shape), model, components=2)
        self.field.fit(data.normalized_as(*normalization).train)
        self.calls = [0]

    def forward(self, state: Tensor, time: Tensor) -> Tensor:
        self.calls[0] += 1
        return self.field(state, time, Condition())

    def __deepcopy__(self, memo: Any) -> Counted:
        return self


def usual(data: Dataset) -> dict[str, tuple[float, float]]:
    low, high = data.limits
    return {
        "mean 0": (data.shift, data.scale),
        "[-1, 1]": ((low + high) / 2, (high - low) / 2),
        "[0, 1]": (low, high - low),
        "raw": (0.0, 1.0),
    }


def normalization_of(teacher: Teacher, data: Dataset, **settings: Any) -> tuple[float, float]:
    chosen = resolve("distill", settings={"teacher.name": "python:teacher", "student.network.name": "mlp", "device": "cpu", **settings})
    config = build(chosen, teacher=teacher, data=data).config
    return config.data.shift, config.data.scale


@pytest.mark.parametrize("units", list(usual(BYTES)))
@pytest.mark.parametrize("family", ["flow", "diffusion", "diffusion-vp", "interpolant"])
@pytest.mark.parametrize("data", [CLUSTERS, BYTES], ids=lambda data: data.name)
def test_build_finds_the_normalization_that_a_teacher_does_not_state(
    units: str, family: str, data: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    """Where its answers fit one of the usual units clearly, by a few dozen evaluations; never another one without a warning."""
    caplog.set_level("INFO", "matchlib")
    model = families[family]().model(paired=False)
    network = Counted(data, model, usual(data)[units])
    result = normalization_of(Teacher.from_callable(network, model), data)
    (line,) = [record for record in caplog.records if "does not state its normalization" in record.getMessage()]
    if line.levelname == "INFO":
        assert result == pytest.approx(usual(data)[units], rel=0.02, abs=0.02)
    else:
        assert result == (data.shift, data.scale) and "teacher.normalization" in line.getMessage()
    assert line.levelname == "INFO" or (data is BYTES and units == "raw"), "only beside numbers up to 255 a source of size 1 is nothing"
    assert network.calls[0] <= 48


def test_build_takes_a_stated_normalization_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """That of the settings before that of the teacher, and no look at its answers."""
    network = Counted(CLUSTERS, FLOW, (0.0, 1.0))
    stated = Teacher.from_callable(network, FLOW, normalization=(1.0, 2.0))
    assert normalization_of(stated, CLUSTERS) == (1.0, 2.0)
    assert normalization_of(stated, CLUSTERS, **{"teacher.normalization": (3.0, 4.0)}) == (3.0, 4.0)
    assert network.calls[0] <= 4 and "normalization" not in caplog.text


def test_resume_takes_the_normalization_that_the_run_has_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the teacher's config.json: a resumed run does not look again, though it might find another one."""
    network = Counted(CLUSTERS, FLOW, (0.0, 1.0))
    teacher = Teacher.from_callable(network, FLOW)
    settings = {"evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",), "trainer.batch_size": 8, "student.network.name": "mlp"}
    settings["teacher.sampler"] = {"name": "ode", "steps": 2}
    whole = matchlib.distill(teacher, CLUSTERS, steps=2, out=tmp_path / "run", settings=settings)
    assert (whole.config.data.shift, whole.config.data.scale) == (0.0, 1.0)
    assert read_config(tmp_path / "run" / "teacher").data.scale == 1.0
    (tmp_path / "run" / "evaluation.json").unlink()
    monkeypatch.setattr("matchlib.runs.build.guess_normalization", lambda *given: (5.0, 5.0))
    resumed = matchlib.resume(tmp_path / "run", teacher=teacher, data=CLUSTERS)
    assert torch.equal(resumed.sample(3), whole.sample(3))
    assert (resumed.config.data.shift, resumed.config.data.scale) == (0.0, 1.0)


class Drop(nn.Module):
    """A network of the user's own, with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))

    def forward(self, state: Tensor, time: Tensor) -> Tensor:
        return self.layers(torch.cat([state, time[:, None]], 1))


def test_resume_of_a_network_of_the_users_own_is_bit_for_bit(tmp_path: Path) -> None:
    """A plain module with dropout: distilled by a copy, cut short, resumed, loaded, sampled, evaluated, and a teacher again."""
    torch.manual_seed(0)
    teacher = Teacher.from_callable(Drop(), FLOW, normalization=(0.0, 1.0))
    data = Dataset.from_arrays("mine", np.random.default_rng(0).normal(size=(60, 2)))
    quick = {"evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",), "trainer.batch_size": 8, "trainer.checkpoint_every": 4}
    for name in ("whole", "cut"):
        matchlib.distill(teacher, data, steps=8, out=tmp_path / name, settings=quick)
    shutil.rmtree(tmp_path / "cut" / "student")
    (tmp_path / "cut" / "evaluation.json").unlink()
    (tmp_path / "cut" / "checkpoints" / "student-00000008.safetensors").unlink()
    with pytest.raises(ArtifactError, match="give it again, data="):
        matchlib.resume(tmp_path / "cut")
    with pytest.raises(ArtifactError, match="give it again, teacher="):
        matchlib.resume(tmp_path / "cut", data=data)
    resumed = matchlib.resume(tmp_path / "cut", teacher=teacher, data=data)
    whole = matchlib.load(tmp_path / "whole", teacher=teacher)
    assert all(torch.equal(a, b) for a, b in zip(resumed.module.state_dict().values(), whole.module.state_dict().values(), strict=True))
    assert torch.equal(resumed.sample(5, seed=3), whole.sample(5, seed=3))
    with pytest.raises(ArtifactError, match=r"give its teacher, matchlib\.load\(RUN, teacher=\.\.\.\)"):
        matchlib.load(tmp_path / "whole")
    assert "student" in matchlib.evaluate(tmp_path / "whole", teacher=teacher, data=data)
    other = Teacher.from_callable(teacher.field.fn, FLOW, normalization=(0.0, 1.0), output=-1.0)
    scores = (tmp_path / "whole" / "evaluation.json").stat().st_mtime_ns
    for call in (matchlib.resume, matchlib.evaluate):
        with pytest.raises(ArtifactError, match=r"answers otherwise than that of .*another convention"):
            call(tmp_path / "whole", teacher=other, data=data)
    assert torch.equal(matchlib.resume(tmp_path / "whole", teacher=teacher, data=data).sample(5, seed=3), whole.sample(5, seed=3))
    assert (tmp_path / "whole" / "evaluation.json").stat().st_mtime_ns == scores  # a finished run is not scored again
    (tmp_path / "whole" / "evaluation.json").unlink()
    with pytest.raises(ArtifactError, match="answers otherwise"):
        matchlib.resume(tmp_path / "whole", teacher=other, data=data)


def test_build_warns_where_alpha_and_beta_differ_but_not_for_a_recipe(caplog: pytest.LogCaptureFixture) -> None:
    """The paper's values differ on purpose."""
    small = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}}
    for recipe, loss in (("paper", {}), (None, {"loss.alpha": 0.5}), (None, {"loss.beta": 3.0})):
        caplog.clear()
        build(resolve("distill", recipe=recipe, options={"data.name": "moons"}, settings=small | loss))
        assert ("alpha=2 and beta=3 differ" in caplog.text) == ("loss.beta" in loss)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"data.labels": False, "teacher.training.label_dropout": 0.1}, "label_dropout changes nothing"),
        ({"teacher.training.label_dropout": 0.1}, None),
        ({"student.init_from_teacher": True}, "init_from_teacher changes nothing"),
        ({"student.init_from_teacher": True, "student.network": {"name": "mlp"}}, None),
        ({"trainer.critic_steps_per_batch": 4, "trainer.critic_steps": 3}, "critic_steps_per_batch=4 is as 3"),
        ({"trainer.critic_steps_per_batch": 3, "trainer.critic_steps": 3}, None),
    ],
)
def test_build_names_settings_that_change_nothing(settings: dict[str, Any], told: str | None, caplog: pytest.LogCaptureFixture) -> None:
    components(**settings)
    assert caplog.text == "" if told is None else told in caplog.text


@pytest.mark.parametrize(("family", "told"), [("bridge", True), ("flow", False)])
def test_build_says_that_a_family_of_pairs_has_none(family: str, told: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "matchlib")
    settings = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}}
    build(resolve("train", options={"teacher.name": family, "data.name": "moons"}, settings=settings))
    assert ("bridge without pairs: moons has none, so the source is normal noise" in caplog.text) == told


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"trainer.task": {"name": "matching"}}, "trainer.task: matching"),
        ({"trainer.task": {"name": "distillation", "critic_steps": 0}}, "critic_steps"),
        ({"student.lora": {"targets": ["nope"]}}, "student.lora.targets"),
        ({"trainer.critic_lora": {"targets": ["nope"]}}, "trainer.critic_lora.targets"),
        ({"teacher.coupling": {"name": "minibatch-ot"}, "trainer.engine.micro_batch_size": 8}, "micro-batches"),
    ],
)
def test_build_refuses_what_would_end_a_run_when_its_teacher_is_trained(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        build(resolve("distill", settings={"data.name": "moons", **settings}))
