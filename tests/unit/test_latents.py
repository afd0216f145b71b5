"""Models of latents: codecs, prepared sets, transformers of diffusers with guidance, and what is made of their samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fixtures.students import dit, vae
from torch import Tensor

import matchlib
from matchlib import Teacher, TimeDistribution
from matchlib.adapters import diffusers, of_model, open_teacher
from matchlib.algebra.records import Condition
from matchlib.data.readers import load_dataset
from matchlib.errors import ArtifactError, DataError, IncompatibleError, Interrupted, SettingError
from matchlib.evaluation.doctor import examine
from matchlib.evaluation.features import FileFeatures
from matchlib.fields.conditions import Conditioned, Conditions
from matchlib.fields.sampler import SampledField
from matchlib.io import read_json

Cli = Callable[..., tuple[int, str, str]]


def images(n: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Digits of 16 x 16 in colour, and their classes of three."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    grey = np.kron(x[:n].reshape(n, 1, 8, 8), np.ones((2, 2)))
    return (np.concatenate([grey, grey[..., ::-1], 16 - grey], 1) * 255 / 16).astype(np.uint8), y[:n] % 3


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a DiTPipeline of random weights."""
    from diffusers import DDIMScheduler, DiTPipeline

    folder = tmp_path_factory.mktemp("pipe")
    kind = {"prediction_type": "v_prediction"}  # well conditioned at level 999, where noise is 157 times the data
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **kind)
    DiTPipeline(dit(classes=1000, layers=2), vae(), scheduler).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def latents(pipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of latents."""
    folder = tmp_path_factory.mktemp("latents")
    x, y = images()
    np.savez(folder / "images.npz", data=x, labels=y)
    matchlib.prepare(folder / "images.npz", folder / "prepared", encode=f"vae:{pipe}")
    return folder / "prepared"


# -- codecs ----------------------------------------------------------------------------------------------------------------


def test_vae_is_that_of_diffusers_with_its_units(tmp_path: Path) -> None:
    """Latents are (mean - shift_factor) scaling_factor, and decoding inverts both before the network."""
    theirs = vae(shift=0.1)
    theirs.save_pretrained(tmp_path)
    codec = matchlib.codecs.build({"name": "vae", "path": str(tmp_path)})
    x = torch.as_tensor(images(5)[0])
    with torch.no_grad():
        mean = theirs.encode(x.float() / 127.5 - 1).latent_dist.mean
        z = codec.encode(x)
        assert torch.allclose(z, (mean - 0.1) * 1.7, atol=1e-6)
        shown = theirs.decode(mean).sample
        assert torch.allclose(codec.decode(z), ((shown + 1) * 127.5).clamp(0, 255), atol=1e-3)


def test_vae_takes_grey_images_and_refuses_what_are_none(pipe: Path) -> None:
    codec = matchlib.codecs.build({"name": "vae", "path": str(pipe)})
    grey = torch.as_tensor(images(2)[0][:, :1])
    assert torch.equal(codec.encode(grey), codec.encode(grey.expand(-1, 3, -1, -1)))
    for wrong in (grey.float(), grey[:, 0], grey.expand(-1, 2, -1, -1)):
        with pytest.raises(DataError, match="8-bit images of 1 or 3 channels"):
            codec.encode(wrong)
    with pytest.raises(IncompatibleError, match="latents of 4 channels"):
        codec.decode(torch.zeros(2, 3, 8, 8))


def test_a_codec_that_changed_or_is_not_there_is_refused(tmp_path: Path) -> None:
    vae().save_pretrained(tmp_path / "vae")
    codec = matchlib.codecs.build({"name": "vae", "path": str(tmp_path)}).pinned()
    vae(seed=1).save_pretrained(tmp_path / "vae")
    with pytest.raises(ArtifactError, match="has changed since data were encoded"):
        codec.decode(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ArtifactError, match="is not there"):
        matchlib.codecs.build({"name": "vae", "path": str(tmp_path / "none")}).decode(torch.zeros(1, 4, 8, 8))
    with pytest.raises(SettingError, match="path is the folder"):
        matchlib.codecs.build({"name": "vae"})


def test_vae_takes_units_of_each_channel(tmp_path: Path) -> None:
    """latents = (z - mean) scaling / std where the configuration has mean and std, as SDXL's pipeline undoes it."""
    theirs = vae()
    mean, std = [0.1, -0.2, 0.3, 0.0], [1.0, 2.0, 0.5, 1.5]
    theirs.register_to_config(latents_mean=mean, latents_std=std)
    theirs.save_pretrained(tmp_path)
    codec, x = matchlib.codecs.build({"name": "vae", "path": str(tmp_path)}), torch.as_tensor(images(2)[0])
    with torch.no_grad():
        z = theirs.encode(x.float() / 127.5 - 1).latent_dist.mean
        scaled = (z - torch.tensor(mean)[:, None, None]) * 1.7 / torch.tensor(std)[:, None, None]
        assert torch.allclose(codec.encode(x), scaled, atol=1e-5)
        assert torch.allclose(codec.decode(scaled), ((theirs.decode(z).sample + 1) * 127.5).clamp(0, 255), atol=1e-3)


def test_vae_goes_through_its_networks_a_few_images_at_a_time(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec, x = matchlib.codecs.build({"name": "vae", "path": str(pipe)}), torch.as_tensor(images(5)[0])
    whole = codec.encode(x)
    shown = codec.decode(whole)
    monkeypatch.setattr("matchlib.plugins.codecs.PIXELS", 2 * 16 * 16)
    assert torch.allclose(codec.encode(x), whole, atol=1e-5) and torch.allclose(codec.decode(whole), shown, atol=1e-3)


def test_vae_refuses_sides_that_it_would_cut(pipe: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "odd.npy", images(8)[0][..., :15])
    with pytest.raises(DataError, match="multiples of 2"):
        matchlib.prepare(tmp_path / "odd.npy", tmp_path / "out", encode=f"vae:{pipe}")
    assert not (tmp_path / "out").exists()


# -- preparing -------------------------------------------------------------------------------------------------------------


def test_prepared_latents_are_the_codecs_of_every_sample(latents: Path, pipe: Path) -> None:
    codec = matchlib.codecs.build({"name": "vae", "path": str(pipe)})
    written = np.load(latents / "data.npy")
    assert np.allclose(written, codec.encode(torch.as_tensor(images()[0])).numpy(), atol=1e-5)
    dataset = load_dataset(latents)
    assert dataset.shape == (4, 8, 8) and dataset.classes == 3 and dataset.shown_limits == (0.0, 255.0)
    shown = dataset.decode(dataset.held_out.data[:3])
    assert shown.shape == (3, 3, 16, 16) and torch.allclose(shown, codec.decode(dataset.denormalize(dataset.held_out.data[:3])))


def test_encoding_goes_on_to_the_same_bytes(latents: Path, tmp_path: Path) -> None:
    """Interrupted after every block: blocks are encoded together, so that where one begins must not matter."""
    source, out = latents.parent / "images.npz", tmp_path / "out"
    encode = read_json(latents / "meta.json")["codec"]
    stopped = 0
    while not (out / "meta.json").exists():
        try:
            matchlib.prepare(source, out, encode=encode, should_stop=lambda: True)
        except Interrupted:
            stopped += 1
    assert stopped == 3
    for name in ("data.npy", "labels.npy"):
        assert (out / name).read_bytes() == (latents / name).read_bytes()


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        ("vae", "a codec and its folder"),
        ("vea:x", "did you mean 'vae'"),
        ("vae:nowhere", "is not there"),
        ("", "encode is a codec"),
    ],
)
def test_encoding_with_a_codec_that_is_none_is_refused(latents: Path, tmp_path: Path, encode: str, message: str) -> None:
    with pytest.raises(matchlib.MatchlibError, match=message):
        matchlib.prepare(latents.parent / "images.npz", tmp_path / "out", encode=encode)
    assert not (tmp_path / "out").exists()


def test_flipping_latents_is_refused(latents: Path) -> None:
    with pytest.raises(SettingError, match=r"data.flip is for images"):
        matchlib.train(data=str(latents), settings={"data.flip": True})


# -- teachers --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guided(pipe: Path) -> Teacher:
    teacher = diffusers(pipe)
    teacher.guidance = 3.0
    return teacher


def test_a_guided_evaluation_is_the_pipelines(guided: Teacher, pipe: Path) -> None:
    """v_null + w (v_class - v_null), with the class behind the last one for no class, and without the learned variance."""
    from diffusers import DiTTransformer2DModel

    network = DiTTransformer2DModel.from_pretrained(pipe / "transformer").eval()
    x, label = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([5, 999, 0])
    level = torch.full((3,), 421)
    with torch.no_grad():
        with_class, without = (network(x, timestep=level, class_labels=k).sample[:, :4] for k in (label, torch.full((3,), 1000)))
        ours = guided(x, (level + 1) / 1000, Condition(label))
    assert torch.allclose(ours, without + 3.0 * (with_class - without), atol=1e-5)
    missing = guided.field(x, (level + 1) / 1000, Condition(torch.tensor([-1, -1, -1])))
    assert torch.allclose(missing, without, atol=1e-6)


def test_a_copy_of_a_dit_hides_no_labels_while_it_learns(guided: Teacher) -> None:
    """diffusers drops labels in training, by torch's global random numbers; a student asks twice and is told the same."""
    student = matchlib.students["onestep"](guided, None).train()
    x, condition = torch.randn(64, 4, 8, 8), Condition(torch.arange(64))
    one, two = (student(x, condition, generator=torch.Generator()) for _ in range(2))
    assert torch.equal(one, two)


def test_a_ddim_trajectory_is_the_pipelines(guided: Teacher, pipe: Path) -> None:
    """Ten levels from 999 to 99 and the predicted data, decoded to images."""
    from diffusers import DiTPipeline

    theirs = DiTPipeline.from_pretrained(pipe)
    theirs.set_progress_bar_config(disable=True)
    label = [7, 3]
    generator = torch.Generator().manual_seed(3)
    wanted = theirs(label, guidance_scale=3.0, num_inference_steps=10, generator=generator, output_type="pt").images
    source = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    model = replace(guided.model, times=TimeDistribution(0.1, 1.0))
    sampler = matchlib.samplers["ddim"](steps=9)
    with torch.no_grad():
        x = sampler.sample(SampledField(guided, model, guided.moments), source, torch.tensor(label), generator=torch.Generator()).data
    shown = matchlib.codecs.build({"name": "vae", "path": str(pipe)}).decode(x) / 255
    assert torch.allclose(shown, wanted, atol=1e-5)


def test_pipelines_say_what_they_cannot_be(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler, UNet2DConditionModel

    config = {"_class_name": "DDPMScheduler", **DDPMScheduler().config}
    with pytest.raises(IncompatibleError, match="nothing= is for a UNet2DConditionModel"):
        of_model(dit(), config, nothing=torch.zeros(2, 3))
    with pytest.raises(IncompatibleError, match="timestep_type=continuous"):
        of_model(dit(), {**config, "_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"})
    with pytest.raises(IncompatibleError, match=r"more than 16,777,216 numbers"):
        of_model(UNet2DConditionModel(**conditioned()), config, nothing=[100_000, 100_000])
    with pytest.raises(IncompatibleError, match="one of UNet2DModel"):
        of_model(torch.nn.Linear(1, 1), config)
    more = UNet2DConditionModel(**conditioned(), class_embed_type="timestep")
    with pytest.raises(IncompatibleError, match="not known here"):
        of_model(more, config)
    with pytest.raises(IncompatibleError, match="takes one condition, got pooled, text"):
        of_model(UNet2DConditionModel(**conditioned()), config, nothing={"text": torch.zeros(2, 6), "pooled": torch.zeros(3)})


def conditioned() -> dict[str, Any]:
    """The configuration of a small UNet2DConditionModel of latents (4, 8, 8) and embeddings of 6 numbers."""
    blocks = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",), "mid_block_type": None}
    widths = {"block_out_channels": (8,), "layers_per_block": 1, "norm_num_groups": 2, "attention_head_dim": 2, "cross_attention_dim": 6}
    return {"sample_size": 8, **blocks, **widths}


def test_embeddings_are_labels_of_a_conditioned_unet(tmp_path: Path, cli: Cli) -> None:
    """Guidance with the stored embedding of nothing, for labels that are missing as a whole or for one sample, and after loading again."""
    from diffusers import EulerDiscreteScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**conditioned()).eval()
    unet.save_pretrained(tmp_path / "pipe" / "unet")
    EulerDiscreteScheduler(beta_schedule="scaled_linear").save_pretrained(tmp_path / "pipe" / "scheduler")
    nothing, told = torch.randn(5, 6), torch.randn(2, 5, 6)
    teacher = diffusers(tmp_path / "pipe", nothing=nothing)
    teacher.guidance = 2.0
    x, level = torch.randn(2, 4, 8, 8), torch.tensor([10, 700])
    with torch.no_grad():
        with_it, without = (unet(x, level, part).sample for part in (told, nothing.expand(2, 5, 6)))
        ours = teacher(x, (level + 1) / 1000, Condition(told))
        one_lacks = teacher.field(x, (level + 1) / 1000, Condition(torch.stack([told[0], torch.full((5, 6), torch.nan)])))
    assert torch.allclose(ours, without + 2 * (with_it - without), atol=1e-5)
    assert torch.allclose(one_lacks, torch.stack([with_it[0], without[1]]), atol=1e-5)
    data = matchlib.Dataset.from_arrays("told", np.random.default_rng(0).normal(size=(40, 4, 8, 8)), labels=np.random.rand(40, 5, 6))
    settings = {"trainer.steps": 2, "trainer.batch_size": 4, "evaluation.draws": 1, "evaluation.metrics": ["frechet-raw"]}
    matchlib.distill(teacher, data=data, out=tmp_path / "run", settings=settings)
    again = matchlib.load(tmp_path / "run", "teacher").module
    with torch.no_grad():
        assert torch.equal(again(x, (level + 1) / 1000, Condition(told)), ours)
    with pytest.raises(IncompatibleError, match="null condition is not known"):
        diffusers(tmp_path / "pipe").field(x, (level + 1) / 1000, Condition())


def test_several_conditions_are_one_label(tmp_path: Path) -> None:
    """A U-Net as SDXL has it: its text, pooled text and six numbers, with those of nothing where they are missing, and loaded again."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    added = {"addition_embed_type": "text_time", "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 5 + 6 * 4}
    unet, config = UNet2DConditionModel(**conditioned(), **added).eval(), {"_class_name": "DDPMScheduler", **DDPMScheduler().config}
    with pytest.raises(IncompatibleError, match="give those of nothing by name"):
        of_model(unet, config)
    shapes = {"text": (3, 6), "pooled": (5,), "time_ids": (6,)}
    told, nothing = ({name: torch.randn(*more, *shape) for name, shape in shapes.items()} for more in ((2,), ()))
    teacher = of_model(unet, config, normalization=(0.0, 1.0), nothing=nothing)
    teacher.guidance = 2.0
    conditions = Conditions(shapes)
    label = conditions.pack(**told)
    assert all(torch.equal(conditions.unpack(label)[name], told[name]) for name in shapes)
    x, level = torch.randn(2, 4, 8, 8), torch.tensor([10, 700])

    def theirs(given: dict[str, Tensor]) -> Tensor:
        more = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}
        return unet(x, level, encoder_hidden_states=given["text"], added_cond_kwargs=more).sample

    with torch.no_grad():
        with_it, without = theirs(told), theirs({name: part.expand(2, *part.shape) for name, part in nothing.items()})
        ours = teacher(x, (level + 1) / 1000, Condition(label))
    assert torch.allclose(ours, without + 2 * (with_it - without), atol=1e-5)
    data = matchlib.Dataset.from_arrays("told", np.random.default_rng(0).normal(size=(40, 4, 8, 8)), labels=np.random.rand(40, 29))
    quick = {"trainer.batch_size": 4, "evaluation.draws": 1, "evaluation.metrics": ["frechet-raw"], "teacher.examine": False}
    matchlib.distill(teacher, data=data, steps=2, out=tmp_path / "run", settings=quick)
    again = matchlib.load(tmp_path / "run", "teacher").module
    with torch.no_grad():
        assert torch.equal(again(x, (level + 1) / 1000, Condition(label)), ours)


def test_conditions_by_name_are_those_of_a_callable() -> None:
    conditions = Conditions({"text": (2, 3), "pooled": (4,)})

    def fn(state: Tensor, time: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        return state * text.sum((1, 2))[:, None] + pooled[:, :1]

    text, pooled, state = torch.randn(5, 2, 3), torch.randn(5, 4), torch.randn(5, 1)
    label = conditions.pack(text=text, pooled=pooled)
    net = Conditioned(fn, conditions, {"text": torch.ones(2, 3), "pooled": torch.zeros(4)})
    assert label.shape == (5, 10) == (5, conditions.size)
    assert torch.allclose(net(state, state[:, 0], label), fn(state, state[:, 0], text, pooled))
    assert torch.allclose(net(state, state[:, 0]), 6 * state)
    label[2] = torch.nan
    assert torch.allclose(net(state, state[:, 0], label)[2], 6 * state[2])
    for wrong in ({"text": text}, {"text": text, "pooled": pooled, "more": pooled}, {"text": text[:, 0], "pooled": pooled}):
        with pytest.raises(IncompatibleError, match="condition"):
            conditions.pack(**wrong)
    with pytest.raises(IncompatibleError, match="has 10 numbers"):
        conditions.unpack(torch.zeros(2, 9))
    with pytest.raises(IncompatibleError, match="give nothing="):
        Conditioned(fn, conditions)(state, state[:, 0])
    with pytest.raises(SettingError, match="shapes by name"):
        Conditions({})


def test_a_condition_may_be_one_number() -> None:
    conditions = Conditions({"level": (), "text": (3,)})
    level, text = torch.rand(5), torch.rand(5, 3)
    label = conditions.pack(level=level, text=text)
    found = conditions.unpack(label)
    assert label.shape == (5, 4)
    assert torch.equal(found["level"], level)
    assert torch.equal(found["text"], text)


# -- a run -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(latents: Path, pipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"trainer.steps": 2, "trainer.batch_size": 4, "evaluation.draws": 1, "evaluation.metrics": ["frechet-raw"]}
    settings |= {"teacher.guidance": 1.5, "teacher.sampler": {"name": "ddim", "steps": 2}}
    folder = tmp_path_factory.mktemp("run") / "run"
    matchlib.distill(f"diffusers:{pipe}", data=str(latents), out=folder, settings=settings)
    return folder


@pytest.mark.runs
def test_samples_of_latents_are_decoded_where_they_are_shown(run: Path, tmp_path: Path, cli: Cli) -> None:
    from safetensors.torch import load_file

    pipeline = matchlib.load(run)
    z = pipeline.sample(3, seed=1, labels=[0, 1, 2], decode=False)
    assert pipeline.codec is not None and z.shape == (3, 4, 8, 8)
    assert torch.equal(pipeline.sample(3, seed=1, labels=[0, 1, 2]), pipeline.codec.decode(z))
    for latent, shape in ((False, (3, 3, 16, 16)), (True, (3, 4, 8, 8))):
        out = tmp_path / f"{latent}.npz"
        code, _, _ = cli("sample", run, "-n", "3", "--seed", "1", "--labels", "0,1,2", "--out", out, *(["--latents"] if latent else []))
        with np.load(out) as file:
            assert code == 0 and file["data"].shape == shape
    assert load_file(run / "report.safetensors")["student"].shape[1:] == (3, 16, 16)


@pytest.mark.runs
def test_exports_of_latents_take_what_decodes_them_along(run: Path, latents: Path, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline

    wanted = matchlib.load(run).sample(3, seed=0, labels=[0, 1, 2])
    matchlib.export(run, "hub", tmp_path / "hub")
    assert read_json(tmp_path / "hub" / "config.json")["data"]["codec"]["path"] == "codec"
    moved = (tmp_path / "hub").rename(tmp_path / "elsewhere")
    assert torch.allclose(matchlib.load(moved).sample(3, seed=0, labels=[0, 1, 2]), wanted, atol=1e-3)
    matchlib.export(run, "diffusers", tmp_path / "pipe")
    theirs = DiffusionPipeline.from_pretrained(tmp_path / "pipe", trust_remote_code=True)
    source = matchlib.load(run).sources(3, seed=0).source
    found = theirs(3, class_labels=[0, 1, 2], num_inference_steps=1, latents=source, output_type="pt").images
    z = matchlib.load(run).sample_batch(3, labels=[0, 1, 2], source=source).data
    assert torch.allclose(found, matchlib.load(run).decode(z) / 255, atol=1e-5)
    with pytest.raises(ValueError, match="num_inference_steps must be 1"):
        theirs(3, num_inference_steps=4)


@pytest.mark.runs
def test_labels_that_are_no_classes_are_drawn_from_held_out_data(tmp_path: Path) -> None:
    """So that a network which is never asked without a label can be scored, and scores are of the labels that the data have."""
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    teacher = of_model(UNet2DConditionModel(**conditioned()), {"_class_name": "DDPMScheduler", **DDPMScheduler().config})
    labels = np.random.default_rng(0).normal(size=(40, 5, 6)).astype(np.float32)
    np.savez(tmp_path / "told.npz", data=np.random.default_rng(1).integers(0, 256, (40, 4, 8, 8), dtype=np.uint8), labels=labels)
    quick = {"trainer.batch_size": 4, "evaluation.draws": 1, "evaluation.metrics": ["frechet-raw"], "teacher.examine": False}
    quick |= {"teacher.sampler": {"name": "ddim", "steps": 2}}
    student = matchlib.distill(teacher, data=str(tmp_path / "told.npz"), steps=2, out=tmp_path / "run", settings=quick)
    drawn = student.sample_batch(30, seed=1).label
    held_out = load_dataset(tmp_path / "told.npz").held_out.label
    assert drawn is not None and held_out is not None
    assert all(any(torch.equal(row, other) for other in held_out) for row in drawn)
    assert torch.equal(drawn, student.sample_batch(30, seed=1).label)  # type: ignore[arg-type]
    (tmp_path / "told.npz").unlink()
    with pytest.raises(SettingError, match="give labels"):
        matchlib.load(tmp_path / "run").sample(2)
    assert matchlib.load(tmp_path / "run").sample(2, labels=labels[:2]).shape == (2, 4, 8, 8)


@pytest.mark.runs
def test_a_guidance_interval_is_refused_before_a_run_begins(run: Path, latents: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="guidance_interval is"):
        matchlib.distill(str(run), data=str(latents), out=tmp_path / "out", settings={"teacher.guidance_interval": (0.8, 0.1)})
    assert not (tmp_path / "out").exists()


def test_a_configuration_takes_no_memory_that_its_weights_do_not_justify(pipe: Path, tmp_path: Path) -> None:
    """Places of patches are computed and not stored: 400,000 pixels a side would be terabytes of them."""
    shutil.copytree(pipe, tmp_path / "pipe")
    file = tmp_path / "pipe" / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sample_size": 400_000}))
    with pytest.raises(IncompatibleError, match="many more numbers"):
        diffusers(tmp_path / "pipe")


def test_features_of_a_file_are_named_after_what_decodes(latents: Path, tmp_path: Path) -> None:
    """Autoencoders may share an encoder: equal latents are then other images."""

    class Means(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.float().mean((2, 3))

    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    vae(seed=1).save_pretrained(tmp_path / "other")
    data = load_dataset(latents)
    other = replace(data, codec=matchlib.codecs.build({"name": "vae", "path": str(tmp_path / "other")}))
    one, two = (FileFeatures(tmp_path / "means.pt", part, torch.device("cpu")) for part in (data, other))
    assert one.name != two.name and not torch.equal(one.features(data.held_out.data[:2]), two.features(data.held_out.data[:2]))


def test_images_that_are_no_bytes_are_not_encoded_for_scores(latents: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "floats.npy", images()[0] / 255.0)
    with pytest.raises(IncompatibleError, match="values of 8 bits, 0 to 255"):
        matchlib.score(tmp_path / "floats.npy", latents)


def test_images_are_scored_against_latents(latents: Path, tmp_path: Path) -> None:
    x, _ = images()
    np.save(tmp_path / "samples.npy", x[::-1])
    as_images = matchlib.score(tmp_path / "samples.npy", latents, metrics=["frechet-raw", "sliced-wasserstein"])
    np.save(tmp_path / "latents.npy", np.load(latents / "data.npy")[::-1])
    as_latents = matchlib.score(tmp_path / "latents.npy", latents, metrics=["frechet-raw", "sliced-wasserstein"])
    for key, value in as_latents["given"].items():
        assert as_images["given"][key] == pytest.approx(value, rel=1e-3), json.dumps(as_images)


# -- the doctor ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, pipe: Path) -> tuple[Any, dict[str, Any], Path]:
    """A DiT that was trained a little on latents by diffusers' own scheduler, its scheduler's configuration, and the latents."""
    from diffusers import DDPMScheduler

    folder = tmp_path_factory.mktemp("trained")
    x, _ = images(600)
    np.savez(folder / "images.npz", data=x)
    matchlib.prepare(folder / "images.npz", folder / "latents", encode=f"vae:{pipe}")
    z = torch.as_tensor(np.load(folder / "latents" / "data.npy"))
    z = z / z.std()  # as a scaling factor is chosen
    np.save(folder / "data.npy", z.numpy())
    torch.manual_seed(0)
    network, scheduler = dit(classes=1, layers=2).train(), DDPMScheduler(prediction_type="v_prediction")
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(0.5)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(250):
        part = z[torch.randint(len(z), (64,))]
        noise, level = torch.randn_like(part), torch.randint(1000, (64,))
        labels = torch.ones(64, dtype=torch.long)
        answer = network(scheduler.add_noise(part, noise, level), timestep=level, class_labels=labels).sample
        loss = (answer[:, :4] - scheduler.get_velocity(part, noise, level)).square().mean() + (answer[:, 4:] - part).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval(), {"_class_name": "DDPMScheduler", **scheduler.config}, folder / "data.npy"


class _SecondHalf(torch.nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, state: Tensor, time: Tensor) -> Tensor:
        labels = torch.ones(len(state), dtype=torch.long)
        return self.network(state, timestep=time, class_labels=labels).sample[:, 4:]


def test_the_doctor_finds_a_wrong_scaling_factor_and_swapped_halves(trained: tuple[Any, dict[str, Any], Path], tmp_path: Path) -> None:
    network, scheduler, data = trained
    teacher = of_model(network, scheduler, normalization=(0.0, 1.0))
    assert examine(teacher, data).mistakes == ()
    np.save(tmp_path / "unscaled.npy", np.load(data) / 0.18215)
    (mistake,) = examine(teacher, tmp_path / "unscaled.npy").mistakes
    assert "scale" in mistake or "standard deviation 1" in mistake
    swapped = Teacher.from_callable(
        _SecondHalf(network), teacher.model, normalization=(0.0, 1.0), arguments=("state", "time"), time=lambda t: 1000 * t - 1
    )
    (mistake,) = examine(swapped, data).mistakes
    assert "it predicts data, not v" in mistake


def test_a_pipeline_of_latents_is_opened_by_its_folder(pipe: Path) -> None:
    teacher = open_teacher(f"diffusers:{pipe}", trust=False)
    assert teacher is not None and teacher.normalization == (0.0, 1.0)
