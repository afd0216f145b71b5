"""Networks: shapes that no law draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import matchlib
from matchlib.algebra.records import Condition, drop_labels
from matchlib.errors import IncompatibleError, SettingError
from matchlib.fields.preconditioned import NetworkSpec


def test_unet_answers_at_32_by_32_by_3_and_on_odd_sides() -> None:
    for shape in ((3, 32, 32), (1, 7, 9)):
        network = matchlib.networks["unet"](NetworkSpec(shape, 10), channels=8)
        state = torch.randn(2, *shape)
        assert network(state, torch.rand(2), Condition(torch.tensor([1, 2]))).shape == state.shape
    with pytest.raises(IncompatibleError, match="use mlp"):
        matchlib.networks["unet"](NetworkSpec((5,)))


@pytest.mark.parametrize(("name", "settings"), [("mlp", {"width": 0}), ("unet", {"blocks": 0}), ("unet", {"multipliers": ()})])
def test_networks_refuse_sizes_below_one(name: str, settings: dict) -> None:
    with pytest.raises(SettingError, match="at least 1"):
        matchlib.networks[name](NetworkSpec((1, 8, 8)), **settings)


def test_mlp_answers_alike_however_a_label_is_missing() -> None:
    for spec, label in (
        (NetworkSpec((2,), classes=3), torch.tensor([0, 1, 2])),
        (NetworkSpec((2,), label_shape=(4,)), torch.randn(3, 4)),
    ):
        net = matchlib.networks["mlp"](spec, width=8, depth=1)
        for weight in net.parameters():
            nn.init.normal_(weight)
        x, t = torch.randn(3, 2), torch.rand(3)
        gone = drop_labels(label, torch.tensor([True, False, True]))
        free, labelled, mixed = (net(x, t, Condition(y)) for y in (None, label, gone))
        assert torch.allclose(mixed[[0, 2]], free[[0, 2]])
        assert torch.allclose(mixed[1], labelled[1])
        assert not torch.allclose(labelled, free)


def test_dit_answers_on_odd_sides_and_refuses_what_does_not_fit() -> None:
    for shape, heads in (((3, 32, 32), 1), ((1, 7, 9), 2)):
        spec = NetworkSpec(shape, 10, heads=heads)
        network = matchlib.networks["dit"](spec, width=16, depth=1, heads=2)
        state = torch.randn(2, *shape)
        assert network(state, torch.rand(2), Condition(torch.tensor([1, 2]))).shape == (2, *spec.output_shape)
    with pytest.raises(IncompatibleError, match="use mlp"):
        matchlib.networks["dit"](NetworkSpec((5,)))
    with pytest.raises(SettingError, match="multiple of heads"):
        matchlib.networks["dit"](NetworkSpec((1, 8, 8)), width=16, heads=3)


def _diffusers_name(name: str) -> list[str]:
    """Where diffusers' DiT keeps a weight of the published network; every block has its own copy of the two embeddings."""
    blocks = [f"transformer_blocks.{i}.norm1.emb." for i in range(2)]
    if name.startswith("t_embedder.mlp."):
        return [f"{b}timestep_embedder.linear_{1 + int(name[15]) // 2}{name[16:]}" for b in blocks]
    if name.startswith("y_embedder."):
        return [f"{b}class_embedder.embedding_table.weight" for b in blocks]
    for old, new in {
        "x_embedder.": "pos_embed.",
        "blocks.": "transformer_blocks.",
        ".adaLN_modulation.1": ".norm1.linear",
        ".attn.proj": ".attn1.to_out.0",
        ".mlp.fc1": ".ff.net.0.proj",
        ".mlp.fc2": ".ff.net.2",
        "final_layer.norm1.linear": "proj_out_1",
        "final_layer.linear": "proj_out_2",
        "transformer_transformer_": "transformer_",
    }.items():
        name = name.replace(old, new)
    return [name]


def test_dit_has_the_names_and_the_answers_of_the_published_network() -> None:
    """The same weights, by their published names, make diffusers' DiT answer alike, once its frequencies are spaced as the paper's are."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2, sample_size=12, patch_size=2,
        num_embeds_ada_norm=10, norm_eps=1e-6,
    ).eval()  # fmt: skip
    ours = matchlib.networks["dit"](NetworkSpec((3, 12, 12), 10), patch=2, width=16, depth=2, heads=2, time_scale=1.0)
    torch.manual_seed(0)
    weights = {name: torch.randn_like(x) * 0.1 for name, x in ours.named_parameters()}
    moved = {}
    for name, x in weights.items():
        if ".attn.qkv." in name:
            block, kind = name.split(".attn.qkv.")
            moved |= {f"transformer_{block}.attn1.to_{k}.{kind}": part for k, part in zip("qkv", x.chunk(3), strict=True)}
        else:
            moved |= dict.fromkeys(_diffusers_name(name), x)
    ours.load_state_dict(weights | {"pos_embed": ours.pos_embed})
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # diffusers has 1, the released code 0
    missing, unexpected = theirs.load_state_dict(moved, strict=False)
    assert not unexpected
    assert all("pos_embed.pos_embed" in name for name in missing)
    state, time, label = torch.randn(4, 3, 12, 12), torch.tensor([0.0, 3.0, 500.0, 999.0]), torch.tensor([0, 3, 9, 10])
    with torch.no_grad():
        expected = theirs(state, time.long(), label).sample  # label 10 is none
        answer = ours(state, time, Condition(torch.where(label == 10, -1, label)))
    assert torch.allclose(answer, expected, atol=1e-5)
