"""Checkpoints of DiT and SiT: equal to diffusers' DiT with the same weights, read by the shapes of their weights, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import matchlib
from matchlib.adapters import dit, open_teacher, sit
from matchlib.algebra.records import Condition
from matchlib.errors import ArtifactError, IncompatibleError

WIDTH, DEPTH, HEADS, CLASSES = 24, 2, 2, 5


def oracle() -> Any:
    """A DiTTransformer2DModel whose frequencies are those of the paper: diffusers divides by one less."""
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS, "num_layers": DEPTH, "sample_size": 8, "patch_size": 2}
    model = DiTTransformer2DModel(**sizes, in_channels=4, out_channels=8, num_embeds_ada_norm=CLASSES, attention_bias=True).eval()
    with torch.no_grad():
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.15)
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())  # one for all in the paper
    return model


def published(model: Any) -> dict[str, Tensor]:
    """The weights under the names of the published code."""
    theirs, tensors = model.state_dict(), {}
    first = "transformer_blocks.0.norm1.emb."
    for kind in ("weight", "bias"):
        tensors[f"x_embedder.proj.{kind}"] = theirs[f"pos_embed.proj.{kind}"]
        for i in (0, 1):
            tensors[f"t_embedder.mlp.{2 * i}.{kind}"] = theirs[f"{first}timestep_embedder.linear_{i + 1}.{kind}"]
        tensors[f"final_layer.linear.{kind}"] = theirs[f"proj_out_2.{kind}"]
        tensors[f"final_layer.adaLN_modulation.1.{kind}"] = theirs[f"proj_out_1.{kind}"]
        for k in range(DEPTH):
            ours, block = f"blocks.{k}.", f"transformer_blocks.{k}."
            tensors[f"{ours}attn.qkv.{kind}"] = torch.cat([theirs[f"{block}attn1.to_{name}.{kind}"] for name in "qkv"])
            tensors[f"{ours}attn.proj.{kind}"] = theirs[f"{block}attn1.to_out.0.{kind}"]
            tensors[f"{ours}mlp.fc1.{kind}"] = theirs[f"{block}ff.net.0.proj.{kind}"]
            tensors[f"{ours}mlp.fc2.{kind}"] = theirs[f"{block}ff.net.2.{kind}"]
            tensors[f"{ours}adaLN_modulation.1.{kind}"] = theirs[f"{block}norm1.linear.{kind}"]
    tensors["y_embedder.embedding_table.weight"] = theirs[f"{first}class_embedder.embedding_table.weight"]
    tensors["pos_embed"] = model.pos_embed.pos_embed.float()
    return {name: x.contiguous().clone() for name, x in tensors.items()}


@pytest.fixture(scope="module")
def model() -> Any:
    return oracle()


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("published") / "dit.safetensors"
    save_file(published(model), place)
    return place


STATE = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
LABEL = torch.tensor([4, -1, 0])


def test_dit_answers_as_diffusers_with_the_same_weights(model: Any, file: Path) -> None:
    teacher, level = dit(file, heads=HEADS), torch.tensor([0, 500, 999])
    with torch.no_grad():
        wanted = model(STATE, timestep=level, class_labels=torch.tensor([4, CLASSES, 0])).sample[:, :4]
        found = teacher(STATE, (level + 1) / 1000, Condition(LABEL))
        nothing = teacher(STATE, (level + 1) / 1000, Condition())
        without = model(STATE, timestep=level, class_labels=torch.full((3,), CLASSES)).sample[:, :4]
    assert torch.allclose(found, wanted, atol=2e-4 * float(wanted.abs().max()))
    assert torch.allclose(nothing, without, atol=2e-4 * float(without.abs().max()))


def test_sit_is_a_velocity_along_a_time_that_runs_to_the_data(model: Any, file: Path) -> None:
    teacher, t = sit(file, heads=HEADS), torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        towards_data = model(STATE, timestep=1 - t, class_labels=torch.tensor([4, CLASSES, 0])).sample[:, :4]
        assert torch.allclose(teacher(STATE, t, Condition(LABEL)), -towards_data, atol=2e-4 * float(towards_data.abs().max()))


@pytest.mark.runs
def test_a_checkpoint_is_distilled_by_its_file_alone(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's folder is enough afterwards; the heads are those of the published sizes, or of 64 units."""
    torch.save({"ema": published(oracle())}, tmp_path / "training.pt")
    assert dit(tmp_path / "training.pt", entry="ema", heads=HEADS).normalization == (0.0, 1.0)
    rng = torch.Generator().manual_seed(0)
    data = matchlib.Dataset.from_arrays("latents", torch.randn(40, 4, 8, 8, generator=rng), labels=torch.arange(40) % CLASSES)
    quick = {"trainer.batch_size": 4, "evaluation.draws": 1, "evaluation.metrics": ["frechet-raw"], "teacher.examine": False}
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes())
    matchlib.distill(f"dit:{copy}", data=data, steps=2, out=tmp_path / "run", settings=quick)
    copy.unlink()
    teacher = matchlib.load(tmp_path / "run", "teacher").module
    with torch.no_grad():
        assert torch.equal(
            teacher(STATE, torch.full((3,), 0.5), Condition(LABEL)), dit(file)(STATE, torch.full((3,), 0.5), Condition(LABEL))
        )


def test_weights_of_something_else_are_refused(file: Path, tmp_path: Path) -> None:
    tensors = published(oracle())
    wrong = {
        "without classes": {name: x for name, x in tensors.items() if not name.startswith("y_embedder")},
        "a block that lacks": {name: x for name, x in tensors.items() if name != "blocks.1.attn.proj.bias"},
        "another shape": {**tensors, "blocks.0.mlp.fc2.bias": torch.zeros(3)},
        "more than there is": {**tensors, "head.weight": torch.zeros(3)},
        "a block of a high number": {**tensors, "blocks.1000000000.mlp.fc1.bias": torch.zeros(3)},
        "nothing": {"x": torch.zeros(1)},
        "no channels": {**tensors, "x_embedder.proj.weight": torch.zeros(16, 0, 2, 2)},
    }
    for some in wrong.values():
        save_file(some, tmp_path / "wrong.safetensors")
        with pytest.raises(IncompatibleError, match=r"does not hold the weights of a dit|more than"):
            dit(tmp_path / "wrong.safetensors", heads=HEADS)
    with pytest.raises(ArtifactError):
        open_teacher(f"dit:{tmp_path / 'nowhere.safetensors'}", trust=False)
