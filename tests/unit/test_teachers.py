"""Teachers in other conventions, guided ones, and weights from elsewhere."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

import matchlib
from matchlib.adapters.diffusers import diffusers
from matchlib.adapters.edm import EDMPrecond, edm
from matchlib.adapters.flows import flow_matching, realuid, torchcfm
from matchlib.algebra.records import Condition, drop_labels
from matchlib.algebra.times import TimeDistribution
from matchlib.data.readers import load_dataset
from matchlib.distillation.family import HIGH_NOISE
from matchlib.errors import ArtifactError, IncompatibleError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.io import copy_fitting, read_checkpoint
from matchlib.registry import families
from matchlib.runs.build import distillation_of
from matchlib.runs.recipes import recipe
from matchlib.runs.run import Hooks
from matchlib.runs.settings import RunSettings, TeacherSettings, from_tree
from matchlib.runs.teachers import fresh_teacher, recipe_of, teacher_card
from matchlib_cli.config import assemble

FLOW = matchlib.families["flow"]().model(paired=False)
LAW = Mixture.normal(0.7, 0.5)
STATE = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
TIME = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
EXACT = GaussianField(FLOW, LAW)(STATE, TIME, Condition())


def test_a_velocity_along_the_other_time_is_turned_round() -> None:
    """The field of a Gaussian in torchcfm's convention, written out: d state/ds on s data + (1 - s) source."""

    def theirs(s: Tensor, x: Tensor) -> Tensor:
        s = s[:, None]
        mean, variance = s * 0.7, s**2 * 0.25 + (1 - s) ** 2
        return 0.7 + (s * 0.25 - (1 - s)) / variance * (x - mean)

    assert torch.allclose(torchcfm(theirs)(STATE, TIME, Condition()), EXACT)
    assert torch.allclose(flow_matching(lambda x, s: theirs(s, x))(STATE, TIME, Condition()), EXACT)


def test_an_edm_denoiser_is_a_teacher_in_its_own_units() -> None:
    """Data N(.2, .5^2) in the denoiser's units: its posterior mean is known at every sigma."""

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return (0.25 * x + sigma[:, None] ** 2 * 0.2) / (0.25 + sigma[:, None] ** 2)

    teacher = edm(denoiser)
    sigma = 80 * TIME**7
    assert torch.allclose(teacher(STATE, TIME, Condition()), denoiser(STATE, sigma))
    assert teacher.moments.data == 0.25
    path = teacher.model.interpolant.coefficients(torch.tensor([teacher.defaults.t_start], dtype=torch.float64))
    assert float(path.b) == pytest.approx(1.25)  # 2.5 standard deviations of the data


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_preconditioning_of_a_perfect_raw_network_is_the_identity(sign: float) -> None:
    """EDM's training target of F, put in the place of F, gives the data back."""
    data, noise, sigma = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0.1, 0.5, 2.0, 30.0])
    state = data + sigma[:, None] * noise
    n = sigma**2 + 0.25
    target = (data - (0.25 / n)[:, None] * state) / (sigma * 0.5 / n**0.5)[:, None]
    precond = EDMPrecond(lambda x, c: sign * target, 0.5, sign)
    assert torch.allclose(precond(state, sigma), data, atol=1e-4)


# -- guidance ---------------------------------------------------------------------------------------------------------------


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


def test_what_fits_is_copied_and_the_rest_is_named() -> None:
    small, large = (nn.Sequential(nn.Linear(3, width), nn.Linear(width, 2)) for width in (4, 5))
    fit = copy_fitting(small, {**large.state_dict(), "head.weight": torch.ones(2)})
    assert fit.copied == ("1.bias",)
    assert set(fit.missing) == {"0.weight", "0.bias", "1.weight"}
    assert "head.weight" in fit.unused
    assert torch.equal(small[1].bias, large[1].bias)
    assert "1 tensors copied, 8% of the weights" in str(fit)


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


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.layer(x)


def test_a_checkpoint_in_the_layout_of_the_release_is_read_without_running_it(tmp_path: Path) -> None:
    trained, path = _Net(), tmp_path / "cifar10_uncond_FM_0.pt"
    averaged = {key: x + 1 for key, x in trained.state_dict().items()}
    head = {"cls_pred_branch.weight": torch.ones(3)}
    torch.save({"net_model": trained.state_dict(), "ema_models": {"0.9999": {**averaged, **head}}, "optim": {}, "step": 0}, path)
    x, t = torch.randn(4, 2), torch.rand(4)
    for entry, shift in (("net_model", 0.0), ("ema_models.0.9999", 1.0)):
        teacher = realuid(path, _Net(), entry=entry)
        expected = -(x @ (trained.layer.weight + shift).T + trained.layer.bias + shift)
        assert torch.allclose(teacher(x, t, Condition()), expected, atol=1e-6)
    with pytest.raises(ArtifactError, match=r"no entry 'ema_models.0.99' \(there are: 0.9999\)"):
        read_checkpoint(path, "ema_models.0.99")
    with pytest.raises(ArtifactError, match="does not fill Linear"):
        realuid(path, nn.Linear(2, 2), entry="net_model")


class _Evil:
    def __reduce__(self) -> tuple:
        return (open, ("evil", "w"))


def test_code_in_a_checkpoint_is_not_run_unless_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: object) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": {"a": torch.ones(2)}, "evil": _Evil()}, "bad.pt", pickle_module=pickle)
    code, _, err = cli("convert", "bad.pt", "--entry", "weights", "--out", "a.safetensors")
    assert code == 2
    assert "--trust" in err
    assert not Path("evil").exists()
    code, out, _ = cli("convert", "bad.pt", "--entry", "weights", "--trust", "--out", "a.safetensors")
    assert code == 0
    assert "any code in it runs now" in out
    assert torch.equal(read_checkpoint("a.safetensors")["a"], torch.ones(2))
    assert cli("convert", "bad.pt", "--out", "a.bin")[0] == 2
    assert cli("convert", "missing.pt", "--out", "a.safetensors")[0] == 2


# -- diffusers --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, nn.Module, object]]:
    from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,), "norm_num_groups": 2}
    unet = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, **blocks).eval()
    schedulers = {
        "epsilon": DDPMScheduler(),
        "v": DDPMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
        "sample": DDPMScheduler(prediction_type="sample", beta_schedule="scaled_linear"),
        "edm": EDMEulerScheduler(),
        "flow": FlowMatchEulerDiscreteScheduler(),
    }
    made = {}
    for name, scheduler in schedulers.items():
        folder = tmp_path_factory.mktemp(name)
        unet.save_pretrained(folder / "unet")
        scheduler.save_pretrained(folder / "scheduler")
        made[name] = (folder, unet, scheduler)
    return made


@pytest.mark.parametrize("name", ["epsilon", "v", "sample"])
def test_a_pipeline_predicts_what_its_scheduler_makes_of_it(pipelines: dict, name: str) -> None:
    """DDPMScheduler's own prediction of the data from the network's output, at three of its thousand levels."""
    folder, unet, scheduler = pipelines[name]
    read = diffusers(folder).view(matchlib.objectives["data"]())
    scheduler.config.clip_sample = False
    x = torch.randn(1, 1, 8, 8)
    for level in (5, 400, 900):
        with torch.no_grad():
            theirs = scheduler.step(unet(x, level).sample, level, x).pred_original_sample
            ours = read(x, torch.tensor([(level + 1) / 1000]), Condition())
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_edm_and_flow_pipelines(pipelines: dict) -> None:
    x = torch.randn(1, 1, 8, 8)
    folder, unet, scheduler = pipelines["edm"]
    sigma = torch.tensor([1.7])
    with torch.no_grad():
        raw = unet(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma)).sample
        theirs = scheduler.precondition_outputs(x, raw, sigma)
        teacher = diffusers(folder)
        assert torch.allclose(teacher(x, (sigma / 80) ** (1 / 7), Condition()), theirs, atol=1e-4)
        folder, unet, _ = pipelines["flow"]
        assert torch.allclose(diffusers(folder)(x, torch.tensor([0.3]), Condition()), unet(x, 300.0).sample, atol=1e-4)


def test_a_pipeline_that_is_not_known_is_refused(pipelines: dict, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="scheduler_config"):
        diffusers(tmp_path)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "UnCLIPScheduler", "prediction_type": "epsilon"}')
    with pytest.raises(IncompatibleError, match=r"UnCLIPScheduler .* there are DDPM, DDIM, EDM, FlowMatch"):
        diffusers(tmp_path)


def test_a_pipeline_is_distilled_in_its_own_units(pipelines: dict, tmp_path: Path) -> None:
    teacher = diffusers(pipelines["epsilon"][0])
    settings = {
        "evaluation.draws": 1,
        "evaluation.metrics": ("frechet",),
        "teacher.sampler": {"name": "ode", "steps": 2},
        "trainer.batch_size": 4,
    }
    settings |= {"student.network": {"name": "mlp", "width": 8, "depth": 1}}
    student = matchlib.distill(teacher, "digits", steps=2, out=tmp_path / "run", settings=settings)
    assert (student.card.data["shift"], student.card.data["scale"]) == (127.5, 127.5)
    assert matchlib.load(tmp_path / "run").sample(3).shape == (
        3,
        1,
        8,
        8,
    )  # it needs no network of the teacher's


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
