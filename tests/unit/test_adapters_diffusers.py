"""Teachers of diffusers: what a pipeline predicts, how it is made again, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import matchlib
from matchlib.adapters import describe, diffusers, of_model, open_teacher, rebuild
from matchlib.algebra.records import Condition
from matchlib.errors import ArtifactError, IncompatibleError


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
def test_diffusers_predicts_what_its_scheduler_makes_of_it(pipelines: dict, name: str) -> None:
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


def test_diffusers_reads_edm_and_flow_schedulers(pipelines: dict) -> None:
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


def test_diffusers_refuses_schedulers_that_are_not_known(pipelines: dict, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="scheduler_config"):
        diffusers(tmp_path)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "UnCLIPScheduler", "prediction_type": "epsilon"}')
    with pytest.raises(IncompatibleError, match=r"UnCLIPScheduler .* there are DDPM, DDIM, EDM, FlowMatch"):
        diffusers(tmp_path)


@pytest.mark.runs
def test_diffusers_teachers_are_distilled_in_their_own_units(pipelines: dict, tmp_path: Path) -> None:
    teacher = diffusers(pipelines["epsilon"][0])
    settings = {
        "evaluation.draws": 1,
        "evaluation.metrics": ("frechet",),
        "teacher.sampler": {"name": "ode", "steps": 2},
        "trainer.batch_size": 4,
    }
    settings |= {"student.network": {"name": "mlp", "width": 8, "depth": 1}}
    student = matchlib.distill(teacher, "digits", steps=2, out=tmp_path / "run", settings=settings)
    assert (student.config.data.shift, student.config.data.scale) == (127.5, 127.5)
    assert matchlib.load(tmp_path / "run").sample(3).shape == (
        3,
        1,
        8,
        8,
    )  # it needs no network of the teacher's


@pytest.mark.parametrize("name", ["epsilon", "v", "sample", "edm", "flow"])
def test_rebuild_makes_a_pipeline_again_without_its_folder(pipelines: dict, name: str) -> None:
    teacher = open_teacher(f"diffusers:{pipelines[name][0]}", trust=False)
    origin = json.loads(json.dumps(teacher.origin))
    assert len(origin["digest"]) == 64
    again = rebuild({key: origin[key] for key in ("adapter", "network", "settings")}, trust=False)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.2, 0.7])
    again.load_state_dict(teacher.state_dict())
    assert torch.equal(again(x, t, Condition()), teacher(x, t, Condition()))
    assert again.model == teacher.model


def _changed(folder: Path, to: Path, **config: object) -> Path:
    shutil.copytree(folder, to)
    path = to / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return to


def test_diffusers_refuses_weights_of_another_configuration(pipelines: dict, tmp_path: Path) -> None:
    """Classes, channels and damaged files: one line each; weights of classes were once dropped without a word."""
    from diffusers import DDPMScheduler, UNet2DModel

    folder, unet, _ = pipelines["epsilon"]
    classes = UNet2DModel(**{**describe(unet)["config"], "num_class_embeds": 10})
    classes.save_pretrained(tmp_path / "classes" / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "classes" / "scheduler")
    teacher = diffusers(tmp_path / "classes")
    assert teacher(torch.randn(2, 1, 8, 8), torch.rand(2), Condition(torch.tensor([3, 9]))).shape == (2, 1, 8, 8)
    with pytest.raises(IncompatibleError, match=r"no place for class_embedding.weight \(num_class_embeds is missing"):
        diffusers(_changed(tmp_path / "classes", tmp_path / "dropped", num_class_embeds=None))
    with pytest.raises(IncompatibleError, match=r"no weights for class_embedding.weight"):
        diffusers(_changed(folder, tmp_path / "added", num_class_embeds=10))
    with pytest.raises(ArtifactError, match="holds no UNet2DModel") as refusal:
        diffusers(_changed(folder, tmp_path / "channels", in_channels=3, out_channels=3))
    assert "\n" not in str(refusal.value)
    with pytest.raises(ArtifactError, match="holds no UNet2DModel"):
        diffusers(_changed(folder, tmp_path / "type", block_out_channels="x"))
    (tmp_path / "type" / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDPMScheduler"}')
    shutil.copytree(folder / "unet", tmp_path / "type" / "unet", dirs_exist_ok=True)
    with pytest.raises(ArtifactError, match="no entry 'num_train_timesteps'"):
        diffusers(tmp_path / "type")


def test_of_model_refuses_a_learned_variance(pipelines: dict) -> None:
    from diffusers import UNet2DModel

    _, unet, scheduler = pipelines["epsilon"]
    wide = UNet2DModel(**{**describe(unet)["config"], "out_channels": 2})
    with pytest.raises(IncompatibleError, match="answers 1 channels with 2"):
        of_model(wide, {"_class_name": "DDPMScheduler", **scheduler.config})


def test_of_model_takes_a_scheduler_as_it_was_made(pipelines: dict) -> None:
    """The configuration of one made in Python has no name of a class."""
    _, unet, scheduler = pipelines["epsilon"]
    x, t = torch.randn(2, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size), torch.tensor([0.3, 0.8])
    given, named = of_model(unet, scheduler), of_model(unet, {"_class_name": type(scheduler).__name__, **scheduler.config})
    assert torch.equal(given(x, t, Condition()), named(x, t, Condition()))


def test_of_model_refuses_settings_of_schedulers_that_it_does_not_read(pipelines: dict) -> None:
    from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

    _, unet, _ = pipelines["epsilon"]
    with pytest.raises(IncompatibleError, match="invert_sigmas"):
        of_model(unet, FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    with pytest.raises(IncompatibleError, match="prediction_type=sample"):
        of_model(unet, {**EDMEulerScheduler().config, "_class_name": "EDMEulerScheduler", "prediction_type": "sample"})
