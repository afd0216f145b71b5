"""Teachers of torchcfm, flow_matching and the RealUID release: their convention, their files, and how they are made again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn
from torchcfm.models.models import MLP
from torchcfm.models.unet.unet import UNetModelWrapper

import matchlib
from matchlib.adapters import build, describe, flow_matching, open_teacher, realuid, rebuild, torchcfm
from matchlib.algebra.records import Condition
from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError, SettingError, UnknownNameError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.io import read_checkpoint

FLOW = matchlib.families["flow"]().model(paired=False)
DISTRIBUTION = Mixture.normal(0.7, 0.5)
STATE = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
TIME = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
EXACT = GaussianField(FLOW, DISTRIBUTION)(STATE, TIME, Condition())


def test_torchcfm_and_flow_matching_turn_time_round() -> None:
    """The field of a Gaussian in torchcfm's convention, written out: d state/ds on s data + (1 - s) source."""

    def theirs(s: Tensor, x: Tensor) -> Tensor:
        s = s[:, None]
        mean, variance = s * 0.7, s**2 * 0.25 + (1 - s) ** 2
        return 0.7 + (s * 0.25 - (1 - s)) / variance * (x - mean)

    assert torch.allclose(torchcfm(theirs)(STATE, TIME, Condition()), EXACT)
    assert torch.allclose(flow_matching(lambda x, s: theirs(s, x))(STATE, TIME, Condition()), EXACT)


# -- the release ------------------------------------------------------------------------------------------------------------


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.layer(x)


def test_realuid_reads_a_checkpoint_of_the_release_without_running_it(tmp_path: Path) -> None:
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


def _unet(classes: int | None = None, channels: int = 1, **more: object) -> UNetModelWrapper:
    more = {"num_heads": 2, "attention_resolutions": "4", "use_scale_shift_norm": True, **more}
    kinds = {} if classes is None else {"class_cond": True, "num_classes": classes}
    return UNetModelWrapper((channels, 8, 8), 32, 1, channel_mult=(1, 2), **kinds, **more)


def test_realuid_refuses_classes_and_channels_that_the_network_has_not(tmp_path: Path) -> None:
    """A conditional checkpoint was once read into an unconditional network, its classes dropped without a word."""
    torch.save({"net_model": _unet(classes=10).state_dict()}, tmp_path / "a.pt")
    with pytest.raises(IncompatibleError, match=r"was trained with classes \(label_emb.weight, \(10, 128\)\) .* class_cond=True"):
        realuid(tmp_path / "a.pt", _unet(), entry="net_model")
    with pytest.raises(ArtifactError, match=r"input_blocks.0.0.weight has shape \(32, 1, 3, 3\) in the file and \(32, 3, 3, 3\)"):
        realuid(tmp_path / "a.pt", _unet(classes=10, channels=3), entry="net_model")


# -- networks as JSON -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        _unet(),
        _unet(classes=10, resblock_updown=True, use_new_attention_order=True, dropout=0.25, num_head_channels=16),
        _unet(learn_sigma=False, use_scale_shift_norm=False, num_heads=1, attention_resolutions="8,4"),
        MLP(2, w=8, time_varying=True),
        MLP(3, out_dim=5, w=8),
    ],
    ids=["unet", "classes", "plain", "mlp in time", "mlp"],
)
def test_describe_makes_the_network_again(network: nn.Module) -> None:
    description = describe(network)
    assert description is not None
    made = build(yaml.safe_load(yaml.safe_dump(description)))
    made.load_state_dict(network.state_dict())
    if isinstance(network, MLP):
        x = torch.randn(4, network.net[0].in_features)
        assert torch.equal(made(x), network(x))
        return
    label = torch.tensor([3, 9]) if network.num_classes else None
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    for weight, other in zip(network.parameters(), made.parameters(), strict=True):
        nn.init.normal_(weight, std=0.1)
        other.data.copy_(weight.data)
    assert torch.equal(made.eval()(t, x, label), network.eval()(t, x, label))


def test_describe_says_nothing_of_other_networks() -> None:
    """Neither of a class that is not listed, nor of one derived from it, nor of a network that was changed."""
    changed = MLP(2, w=8)
    changed.net.append(nn.Linear(2, 2))
    derived = type("Derived", (MLP,), {})
    derived.__name__ = "MLP"
    for network in (nn.Linear(2, 2), changed, derived(2), lambda x: x):
        assert describe(network) is None


@pytest.mark.parametrize(
    "description",
    [
        {"import": "os:system", "config": {"command": "true"}},
        {"import": "torchcfm.models.models:MLP", "config": {"wide": 3}},
        {},
        {"import": []},
    ],
    ids=["other", "arguments", "empty", "list"],
)
def test_build_makes_listed_classes_alone(description: dict) -> None:
    with pytest.raises(ArtifactError):
        build(description)


# -- files ------------------------------------------------------------------------------------------------------------------

FILE = """
import sys, torch, matchlib
from torchcfm.models.unet.unet import UNetModelWrapper
class Net(torch.nn.Module):
    sigma_data = 0.7
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
    def forward(self, *arguments):
        return self.layer(next(x for x in arguments if x.ndim == 2))
net = Net()
unet = UNetModelWrapper((1, 8, 8), 32, 1, channel_mult=(1, 2), num_heads=1)
teacher = matchlib.adapters.torchcfm(net)
def make(): return Net()
def needs(width): return Net()
def pair(): return net, 1
def ends(): sys.exit(0)
def fails(): raise RuntimeError("no\\nGPU")
"""


@pytest.mark.parametrize("prefix", ["torchcfm:", "flow_matching:", "edm:"])
@pytest.mark.parametrize("name", ["net", "make"])
def test_open_teacher_reads_networks_of_a_file_and_makes_them_again(tmp_path: Path, prefix: str, name: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    teacher = open_teacher(f"{prefix}{path}:{name}", trust=True)
    x, t = torch.randn(3, 2), torch.tensor([0.2, 0.5, 0.9])
    again = rebuild(teacher.origin, trust=True)
    again.load_state_dict(teacher.state_dict())
    assert torch.equal(teacher(x, t, Condition()), again(x, t, Condition()))
    assert teacher.origin["path"] == str(path)
    if prefix == "edm:":
        assert teacher.moments.data == pytest.approx(0.49)
    with pytest.raises(SettingError, match="give --trust"):
        rebuild(teacher.origin, trust=False)
    path.write_text(FILE + "x = 1")
    with pytest.raises(ArtifactError, match="has changed since"):
        rebuild(teacher.origin, trust=True)


def test_open_teacher_needs_neither_trust_nor_file_for_a_described_network(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    teacher = open_teacher(f"torchcfm:{path}:unet", trust=True)
    path.unlink()
    again = rebuild(teacher.origin, trust=False)
    again.load_state_dict(teacher.state_dict())
    assert again.origin["network"] == teacher.origin["network"]


def test_open_teacher_returns_teachers_of_a_file_and_none_for_other_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    assert open_teacher(f"{path}:teacher", trust=True).origin["adapter"] == "python"
    assert open_teacher("flow", trust=True) is None
    assert open_teacher("runs/a:b", trust=True) is None


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("torchcfm:{}:nett", UnknownNameError, "did you mean 'net'"),
        ("torchcfm:{}:needs", SettingError, "must be a torch.nn.Module, .* it wants arguments"),
        ("torchcfm:{}:pair", SettingError, "must be a torch.nn.Module"),
        ("torchcfm:{}:ends", ArtifactError, "ends the program"),
        ("torchcfm:{}:fails", ArtifactError, "RuntimeError: no GPU"),
        ("torchcfm:{}:sys", SettingError, "must be a torch.nn.Module"),
        ("torchcfm:{}", SettingError, "FILE.py:NAME"),
        ("torchcfm:", SettingError, "FILE.py:NAME"),
        ("edm:no.py:net", ArtifactError, "there is no file no.py"),
        ("{}:net", SettingError, "must be a matchlib.Teacher"),
        ("diffusers:nowhere", ArtifactError, "scheduler_config.json cannot be read"),
        ("diffusers:" + "x" * 5000, ArtifactError, "too long"),
        ("torchcfm:" + "x" * 5000 + ".py:net", ArtifactError, "there is no file"),
    ],
)
def test_open_teacher_says_in_one_line_what_is_wrong(tmp_path: Path, spec: str, kind: type[MatchlibError], message: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    with pytest.raises(kind, match=message) as refusal:
        open_teacher(spec.format(path), trust=True)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "raise SystemExit", "1 / 0", "def (", "import no_such_package"])
def test_open_teacher_survives_files_that_fail_or_exit(tmp_path: Path, code: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(ArtifactError, match=r"mine.py (fails|ends the program)") as refusal:
        open_teacher(f"torchcfm:{path}:net", trust=True)
    assert "\n" not in str(refusal.value)


def test_open_teacher_runs_no_code_without_trust(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f"open({str(tmp_path / 'evil')!r}, 'w')")
    for spec in (f"torchcfm:{path}:net", f"{path}:net"):
        with pytest.raises(SettingError, match="give --trust"):
            open_teacher(spec, trust=False)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "origin",
    [{}, {"adapter": "os"}, {"adapter": "torchcfm"}, {"adapter": []}, {"adapter": "torchcfm", "network": {"import": "os:system"}},
     {"adapter": "torchcfm", "network": {"import": "torchcfm.models.models:MLP", "config": {"dim": 2}}, "settings": {"x": 1}}],
)  # fmt: skip
def test_rebuild_refuses_origins_that_are_none(origin: dict) -> None:
    with pytest.raises(ArtifactError):
        rebuild(origin, trust=True)


def test_adapters_are_attributes_of_the_package() -> None:
    assert matchlib.adapters.torchcfm is torchcfm
    assert set(matchlib.adapters.__all__) <= set(dir(matchlib.adapters))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        matchlib.adapters.nothing  # noqa: B018
