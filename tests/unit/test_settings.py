"""Settings: one tree for the command line and for Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import matchlib
from matchlib.errors import MatchlibError, SettingError, UnknownNameError
from matchlib.plugins.interpolants import NoisyLinear
from matchlib.runs.settings import RunSettings, from_config, plain, resolve
from matchlib.training.settings import TrainerSettings
from matchlib_cli.commands import _assignments as assignments

PATHS = [
    "trainer.steps", "trainer.stepz", "trainer.batch_size", "trainer.lr_decay", "trainer.betas", "trainer.adaptive_clip",
    "trainer.times.t_min", "trainer.times.log_sigma", "trainer.engine.precision", "trainer.engine", "trainer.on_alarm", "trainer",
    "trainer.critic_network.name", "trainer.critic_network", "teacher.name", "teacher.interpolant.name", "teacher.interpolant",
    "teacher.interpolant.scale", "teacher.network.width", "teacher.network.name", "teacher.epsilon", "teacher.training.ema",
    "teacher.sampler", "loss.name", "loss.alpha", "loss.gamma", "loss", "student.t_start", "student.steps", "student.name", "data.noise",
    "data.name", "data.labels", "evaluation.metrics", "evaluation.draws", "seed", "device", "out", "nothing", "a..b", "",
]  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**66), st.floats(-2, 1e3), st.sampled_from([float("inf"), float("nan")]),
    st.sampled_from(["flow", "bridge", "sid", "realuid", "uid", "mlp", "noisy-linear", "linaer", "fewstep", "1e-3", "many", "bf16", ""]),
    st.lists(st.one_of(st.floats(0, 1), st.text(max_size=2)), max_size=3),
    st.dictionaries(
        st.sampled_from(["name", "width", "scale", "alpha", "steps", "precision", "x"]), st.sampled_from(["mlp", "sid", 2, 0.5]), max_size=2
    ),
)  # fmt: skip


def outcome(values: dict[str, Any]) -> dict[str, Any] | str:
    try:
        return plain(resolve("distill", settings=values))
    except MatchlibError as error:
        return f"{type(error).__name__}: {error}"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(PATHS), VALUES, min_size=1, max_size=4))
def test_resolve_of_settings_is_that_of_set(values: dict[str, Any]) -> None:
    """``settings={path: value}`` in Python does what ``--set path=value`` does, wrong values included."""
    lines = [
        f"{path}={yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).removesuffix('...' + chr(10)).strip()}"
        for path, value in values.items()
    ]
    read = assignments(lines)
    assert repr(read) == repr(values)
    assert repr(outcome(read)) == repr(outcome(values))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(PATHS), VALUES, min_size=1, max_size=3))
def test_resolve_refuses_with_an_error_of_matchlib_or_survives_its_file(values: dict[str, Any]) -> None:
    """Whatever is accepted is read back from ``config.yaml`` as it was; whatever is not raises a MatchlibError in one line."""
    tree = outcome(values)
    if isinstance(tree, str):
        assert "\n" not in tree
    else:
        assert repr(plain(resolve("distill", config=yaml.safe_load(yaml.safe_dump(tree))))) == repr(tree)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": "abc"}, "seed: input should be a valid integer"),
        ({"trainer.batch_size": None}, "trainer.batch_size"),
        ({"evaluation.draws": []}, "evaluation.draws"),
        ({"teacher.times.log_sigma": []}, "teacher.times.log_sigma"),
        ({"seed": 2**64}, "seed must be less than"),
        ({"seed": 1.5}, "fractional part"),
        ({"trainer.ema": 2}, "trainer.ema must be less than 1"),
        ({"trainer.student_lr": 0}, "trainer.student_lr must be greater than 0"),
        ({"trainer.student_lr": float("nan")}, "trainer.student_lr"),
        ({"out": ""}, "out"),
        ({"trainer.engine.parallel": "dpp"}, "did you mean 'ddp'"),
    ],
)
def test_resolve_names_setting_value_and_what_is_accepted(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as error:
        resolve("distill", settings=values)
    assert message in str(error.value)


def test_resolve_refuses_keys_that_are_no_names() -> None:
    with pytest.raises(SettingError, match="keys are names"):
        resolve("distill", config={"trainer": {3: 4}})


def test_resolve_lays_defaults_recipe_config_options_and_settings_in_this_order() -> None:
    config = {"trainer": {"batch_size": 7, "critic_lr_scale": 5.0}, "seed": 3}
    chosen = resolve("distill", recipe="correct", config=config, options={"seed": 4, "trainer.steps": None}, settings={"seed": 5})
    assert (chosen.trainer.batch_size, chosen.trainer.critic_lr_scale, chosen.seed) == (7, 5.0, 5)
    assert chosen.trainer.steps == RunSettings().trainer.steps
    assert chosen.loss["alpha"] == 8.0


def test_resolve_of_another_plugin_drops_the_settings_of_the_one_before() -> None:
    assert resolve("distill", settings={"loss.name": "sid"}).loss == {"name": "sid"}
    named = resolve("distill", options={"loss.name": "realuid", "loss.weight_power": 0.0}).loss
    assert named == {"name": "realuid", "alpha": 1.0, "beta": 1.0, "gamma": 1.0, "weight_power": 0.0}
    other = resolve("distill", config={"teacher": {"name": "bridge", "epsilon": 0.3, "guidance": 2.0}}, options={"teacher.name": "flow"})
    assert (other.teacher.options, other.teacher.guidance) == ({}, 2.0)


@pytest.mark.parametrize(
    ("layers", "alpha_beta_gamma"),
    [
        ({}, (2.0, 2.0, 0.5)),
        ({"options": {"loss.alpha": 8.0}}, (8.0, 8.0, 0.5)),
        ({"settings": {"loss.alpha": 8.0}}, (8.0, 8.0, 0.5)),
        ({"settings": {"loss.alpha": 0.5}}, (0.5, 0.5, 0.5)),
        ({"settings": {"loss.alpha": 1.0}}, (1.0, 1.0, 1.0)),
        ({"settings": {"loss.beta": 3.0, "loss.alpha": 4.0}}, (4.0, 3.0, 0.5)),
        ({"options": {"loss.gamma": 0.3}}, (2.0, 2.0, 0.3)),
        ({"recipe": "correct", "options": {"loss.alpha": 4.0}}, (4.0, 4.0, 0.5)),
        ({"recipe": "paper", "settings": {"loss.alpha": 4.0}}, (4.0, 4.0, 0.5)),
        (
            {"config": {"loss": {"name": "realuid", "alpha": 0.9, "beta": 0.9, "gamma": 0.9}}, "options": {"loss.alpha": 3.0}},
            (3.0, 3.0, 0.5),
        ),
        ({"options": {"loss.alpha": 4.0}, "settings": {"loss.beta": 5.0}}, (4.0, 5.0, 0.5)),
    ],
)
def test_resolve_lets_alpha_alone_decide_beta_and_gamma(layers: dict, alpha_beta_gamma: tuple[float, float, float]) -> None:
    """Whichever way alpha is given; what is given with it or later stays, and the settings hold all three values."""
    loss = resolve("distill", **layers).loss
    assert (loss["alpha"], loss["beta"], loss["gamma"]) == alpha_beta_gamma


def test_resolve_keeps_a_recipes_settings_when_its_own_loss_is_named() -> None:
    assert resolve("distill", recipe="correct", options={"loss.name": "realuid"}).loss["alpha"] == 8.0


def test_resolve_accepts_null_as_a_value() -> None:
    assert resolve("distill", settings={"teacher.guidance": None}).teacher.guidance is None
    assert resolve("distill", recipe="paper", settings={"loss.gamma": None}).loss["gamma"] == 0.92


def test_resolve_of_the_recipe_paper_is_the_released_loss() -> None:
    chosen = resolve("distill", recipe="paper")
    assert chosen.loss == {"name": "realuid", "alpha": 0.92, "beta": 0.94, "gamma": 0.92, "weight_power": 0.0}
    assert (chosen.trainer.betas, chosen.trainer.critic_steps, chosen.trainer.student_lr) == ((0.0, 0.999), 5, 3e-5)


def test_resolve_accepts_objects_of_registered_classes() -> None:
    assert resolve("train", options={"teacher.interpolant": NoisyLinear(0.3)}).teacher.interpolant == {"name": "noisy-linear", "scale": 0.3}


def test_resolve_makes_paths_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.npz").touch()
    chosen = resolve("distill", settings={"data.name": "mine.npz", "out": "run"})
    assert (chosen.data.name, chosen.out) == (str(tmp_path / "mine.npz"), str(tmp_path / "run"))


def test_from_config_validates_every_value(tmp_path: Path) -> None:
    """YAML reads 1e-3 as text: it becomes a number, and what is none is refused with the file's name."""
    path = tmp_path / "config.yaml"
    path.write_text("trainer: {student_lr: 1e-3, ema: '0.9'}\n")
    assert from_config(path).trainer.student_lr == 1e-3
    path.write_text("trainer: {ema: high}\n")
    with pytest.raises(SettingError, match=r"config.yaml.*trainer.ema"):
        from_config(path)


def test_settings_are_frozen_and_refuse_unknown_keys() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'lr_decay'"):
        TrainerSettings(steps=3, lr_deca=0.5)
    with pytest.raises(Exception, match="frozen"):
        TrainerSettings(steps=3).steps = 4  # type: ignore[misc]


def test_each_phase_has_its_own_trainer_settings() -> None:
    chosen = resolve("distill", settings={"trainer.log_every": 7, "trainer.engine.micro_batch_size": 3})
    assert (chosen.teacher.training.log_every, chosen.teacher.training.engine.micro_batch_size) == (100, None)


def test_schema_documents_every_setting() -> None:
    """Editors complete YAML with the schema: each leaf has a type or choices, and each setting a description."""
    schema = json.loads(json.dumps(RunSettings.model_json_schema()))
    groups = {"RunSettings": schema, **schema["$defs"]}
    missing = [
        f"{name}.{key}"
        for name, group in groups.items()
        for key, field in group.get("properties", {}).items()
        if "description" not in field
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": {"name": "uid", "alpha": 3.0}}, "it is a setting of .*realuid"),
        ({"student.steps": 4}, "it is a setting of fewstep"),
    ],
)
def test_resolve_names_the_plugins_that_have_a_setting(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownNameError, match=said):
        resolve("distill", settings=settings)


def test_resolve_takes_the_name_of_one_tracker() -> None:
    assert resolve("distill", settings={"trainer.trackers": "tensorboard"}).trainer.trackers[0]["name"] == "tensorboard"


def test_a_time_that_is_null_stays_as_the_family_has_it() -> None:
    from matchlib.runs.build import build

    small = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "data.name": "moons"}
    expected = build(resolve("train", settings=small)).config.model.times
    found = build(resolve("train", settings={**small, "teacher.times": {"t_min": None, "t_max": None}})).config.model.times
    assert found == expected
    assert build(resolve("train", settings={**small, "teacher.times.t_max": 0.9})).config.model.times.t_max == 0.9


def test_paths_with_null_characters_are_refused(tmp_path: Path) -> None:
    """No system has such a name; found by the harness of wrong inputs at a fresh seed."""
    with pytest.raises(SettingError, match=r"^out must be a path, without null characters"):
        matchlib.train(out="a\0b")
    for write in (lambda: matchlib.prepare("moons.npz", "a\0b"), lambda: matchlib.export(tmp_path, "hub", "a\0b")):
        with pytest.raises(matchlib.MatchlibError):
            write()
