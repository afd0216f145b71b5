"""Teachers in other conventions, guided ones, and weights from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from matchlib.runs.teachers import fresh_teacher, recipe_of, teacher_card
from matchlib_cli.config import assemble
from torch import Tensor, nn

import matchlib
from matchlib import Teacher
from matchlib.algebra.records import Condition, drop_labels
from matchlib.algebra.times import TimeDistribution
from matchlib.data.readers import load_dataset
from matchlib.distillation.family import HIGH_NOISE
from matchlib.errors import IncompatibleError, SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.sampler import CountedField
from matchlib.registry import families
from matchlib.runs.build import distillation_of
from matchlib.runs.recipes import recipe
from matchlib.runs.run import Hooks
from matchlib.runs.settings import RunSettings, TeacherSettings, from_tree

FLOW = matchlib.families["flow"]().model(paired=False)
LAW = Mixture.normal(0.7, 0.5)
STATE = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
TIME = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
EXACT = GaussianField(FLOW, LAW)(STATE, TIME, Condition())


def test_any_convention_is_one_call() -> None:
    """A denoiser that wants a time of 0 to 999 and a state of half the size, and answers with data of half the size."""
    data = replace(FLOW, objective=matchlib.objectives["data"]())

    def theirs(step: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        assert y is None
        return 0.5 * GaussianField(data, LAW)(2 * x, step / 999, Condition())

    made = Teacher.from_callable(theirs, data, arguments=("time", "state", "label"), time=lambda t: 999 * t, latent=0.5, output=2.0)
    assert torch.allclose(made.view(FLOW.objective)(STATE, TIME, Condition()), EXACT)
    with pytest.raises(SettingError, match="among state, time, label, source, got 'sate'; did you mean 'state'"):
        Teacher.from_callable(theirs, data, arguments=("sate",))


# -- guidance ---------------------------------------------------------------------------------------------------------------


class _TwoClasses(nn.Module):
    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return torch.zeros_like(state) if condition.label is None else condition.label[:, None].to(state)


def test_guidance_is_linear_from_without_to_with_labels() -> None:
    label = torch.tensor([1, 1, 1, 2, 2, 2])
    for w in (0.0, 0.5, 1.0, 3.0):
        teacher = Teacher(_TwoClasses(), FLOW, guidance=w)
        assert torch.allclose(teacher(STATE, TIME, Condition(label)), w * label[:, None].double())
        assert torch.equal(teacher(STATE, TIME, Condition()), torch.zeros_like(STATE))
        counted = CountedField(teacher)
        counted(STATE, TIME, Condition(label))
        assert counted.nfe == (1 if w == 1 else 2)


def test_missing_labels_are_one_question_however_they_are_missing() -> None:
    for signature, label in (
        (NetworkSpec((2,), classes=3), torch.tensor([0, 1, 2])),
        (NetworkSpec((2,), label_shape=(4,)), torch.randn(3, 4)),
    ):
        net = matchlib.networks["mlp"](signature, width=8, depth=1)
        for weight in net.parameters():
            nn.init.normal_(weight)
        x, t = torch.randn(3, 2), torch.rand(3)
        gone = drop_labels(label, torch.tensor([True, False, True]))
        free, told, mixed = (net(x, t, Condition(y)) for y in (None, label, gone))
        assert torch.allclose(mixed[[0, 2]], free[[0, 2]])
        assert torch.allclose(mixed[1], told[1])
        assert not torch.allclose(told, free)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "trained with dropped labels: --set teacher.training.label_dropout"),
        ({"data.labels": False, "teacher.training.label_dropout": 0.1}, "needs a teacher with labels"),
    ],
)
def test_guidance_without_what_it_needs_is_refused(tmp_path: Path, more: dict, said: str) -> None:
    with pytest.raises(IncompatibleError, match=said):
        matchlib.distill("flow", settings={"teacher.guidance": 2.0, **more}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_guided_run_warns_and_its_teacher_stays_guided(tmp_path: Path) -> None:
    said: list[str] = []
    small = {"teacher.network": {"name": "mlp", "width": 8, "depth": 1}, "teacher.training.steps": 3, "evaluation.draws": 1}
    guided = {"teacher.guidance": 2.0, "teacher.training.label_dropout": 0.2}
    hooks = Hooks(say=said.append)
    matchlib.distill("flow", steps=4, settings={**small, **guided}, out=tmp_path / "run", hooks=hooks)
    assert any("minimises no matching loss" in line for line in said)
    teacher = matchlib.load(tmp_path / "run", of="teacher")
    teacher.draw(3)
    assert teacher.module.guidance == 2.0
    assert teacher.nfe == 2 * 50  # 25 Heun steps, each evaluation asked with and without the label
    balanced = teacher.draw(20, labels="balanced").label
    assert balanced.bincount().tolist() == [2] * 10


# -- weights ----------------------------------------------------------------------------------------------------------------


def test_a_student_of_another_size_starts_from_what_fits(tmp_path: Path) -> None:
    said: list[str] = []
    settings = {
        "teacher.network": {"name": "mlp", "width": 8, "depth": 2},
        "student.network": {"name": "mlp", "width": 8, "depth": 1},
        "student.init_from_teacher": True,
        "teacher.training.steps": 3,
        "evaluation.draws": 1,
    }
    hooks = Hooks(say=said.append)
    matchlib.distill("flow", steps=2, settings=settings, out=tmp_path / "run", hooks=hooks)
    assert any("warm start" in line and "modulate" in line for line in said)
    student = matchlib.load(tmp_path / "run")
    assert student.module.field.model.objective == FLOW.objective  # equal weights mean the same
    assert student.sample(2).shape == (2, 1, 8, 8)


def test_a_recipe_lies_under_whatever_else_is_given(tmp_path: Path) -> None:
    """Recipe, then settings: the recipe's loss and rates are used, and what is given beside it wins."""
    quick = {"teacher.training.steps": 2, "evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",)}
    made = [
        matchlib.distill(recipe="correct", steps=2, settings={**quick, **more}, out=tmp_path / name)
        for name, more in {"as it is": {}, "changed": {"trainer.critic_lr_scale": 3.0}}.items()
    ]
    assert len(made) == 2
    trees = [yaml.safe_load((tmp_path / name / "config.yaml").read_text()) for name in ("as it is", "changed")]
    assert trees[0]["loss"] == trees[1]["loss"] == {"name": "realuid", **recipe("correct")["loss"]}
    assert [tree["trainer"]["critic_lr_scale"] for tree in trees] == [recipe("correct")["trainer"]["critic_lr_scale"], 3.0]


def test_naming_the_loss_of_a_recipe_again_keeps_its_settings(tmp_path: Path) -> None:
    """``--loss realuid --recipe correct`` once gave alpha = 1 without a word; another loss is still another loss."""
    own = recipe("correct")["loss"]
    assert assemble("distill", None, {"loss.name": "realuid"}, [], "correct").loss == own
    assert assemble("distill", None, {"loss.name": "realuid", "loss.alpha": 4.0, "loss.beta": 4.0}, [], "correct").loss == {
        **own,
        "alpha": 4.0,
        "beta": 4.0,
    }
    assert assemble("distill", None, {"loss.name": "uid"}, [], "correct").loss == {"name": "uid"}
    assert assemble("distill", None, {"loss.name": "realuid"}, []).loss == {"name": "realuid"}
    quick = {"teacher.training.steps": 2, "evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",)}
    for name, loss in (("same", "realuid"), ("other", "uid")):
        matchlib.distill(loss=loss, recipe="correct", steps=2, settings=quick, out=tmp_path / name)
    same, other = (yaml.safe_load((tmp_path / name / "config.yaml").read_text())["loss"] for name in ("same", "other"))
    assert same == own and other["name"] == "uid" and "alpha" not in other


def test_a_critic_may_have_a_network_of_its_own_and_rates_a_factor() -> None:
    """The critic's network is the one asked for, from scratch; factors multiply the family's own step sizes."""
    data = load_dataset("digits").without_labels()
    base = RunSettings()
    card = teacher_card(base, data)
    teacher, loss = fresh_teacher(card, 0), matchlib.losses.build(base.loss)
    plain = distillation_of(base, card, teacher, loss, paired=False)
    own = replace(
        base, trainer=replace(base.trainer, critic_network={"name": "mlp", "width": 24}, student_lr_scale=0.5, critic_lr_scale=3.0)
    )
    other = distillation_of(own, card, teacher, loss, paired=False)
    widths = [made.distillation.critic.network.enter.out_features for made in (plain, other)]
    assert widths == [192, 24]
    assert (other.student_lr, other.critic_lr) == (plain.student_lr / 2, plain.critic_lr * 3)


@pytest.mark.parametrize("name", list(families))
def test_a_student_is_compared_only_where_its_teacher_was_trained(name: str) -> None:
    """The family's times for distillation are cut to those of the teacher; a setting changes a part of them."""
    data, trained = load_dataset("digits").without_labels(), {"t_min": 0.3, "t_max": 0.6}

    def times(**trainer: Any) -> TimeDistribution:
        settings = from_tree({"teacher": {"name": name, "times": trained}, "trainer": trainer})
        card = teacher_card(settings, data)
        made = distillation_of(settings, card, fresh_teacher(card, 0), matchlib.losses.build(settings.loss), paired=False)
        return made.distillation.model.times

    own = times()
    assert (own.t_min, own.high) == (0.3, 0.6)
    assert times(times={"t_min": 0.4}) == replace(own, low=0.4)
    assert times(times={"log_sigma": None}) == TimeDistribution(0.3, 0.6)


def test_a_teacher_without_a_family_is_distilled_at_noisy_times() -> None:
    """Own callables get what the families have, unless the data are pairs, whose sources tell the data."""
    card, own = teacher_card(RunSettings(), load_dataset("digits")), TeacherSettings(name="mine.py:teacher")
    assert recipe_of(own, card, paired=False).times_of(card.model) == HIGH_NOISE
    assert recipe_of(own, card, paired=True).times_of(card.model) == card.model.times
