"""Low-rank adapters: nothing changes at first, the frozen weights never do, and at full rank they learn what weights learn."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import matchlib
from matchlib.errors import Interrupted, SettingError
from matchlib.runs.api import start_run
from matchlib.runs.settings import resolve
from matchlib.training.lora import adapt, merge, share


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 5, 3), nn.GroupNorm(1, 5), nn.Flatten(), nn.Linear(5 * 4, 7), nn.SiLU(), nn.Linear(7, 3, bias=False))


def test_fresh_adapters_change_nothing_bit_for_bit() -> None:
    net, x = network(), torch.randn(4, 2, 4, 4)
    expected = net(x)
    learned = adapt(net, 2)
    assert torch.equal(net(x), expected)
    assert learned == 2 * (5 + 18) + 2 * (7 + 20) + 2 * (3 + 7)


def test_adapters_at_full_rank_have_the_first_gradient_of_the_weights() -> None:
    """dL/d(up) = dL/dW down^T, and a square ``down`` of full rank gives dL/dW back."""
    full, x = network().double(), torch.randn(6, 2, 4, 4, dtype=torch.float64)
    low = copy.deepcopy(full)
    adapt(low, 10**6)
    for net in (full, low):
        net(x).square().mean().backward()
    for before, after in zip(full, low, strict=True):
        if isinstance(before, nn.Conv2d | nn.Linear):
            part = after.parametrizations.weight[0]
            expected = before.weight.grad.flatten(1)
            outputs, inputs = expected.shape
            if inputs <= outputs:
                assert torch.allclose(part.up.grad @ torch.linalg.pinv(part.down.T), expected, rtol=1e-8, atol=1e-12)
            assert torch.allclose(part.up.grad, expected @ part.down.T, rtol=1e-10, atol=1e-14)
            assert torch.equal(part.down.grad, torch.zeros_like(part.down))


def test_merge_gives_a_plain_network_with_the_same_answers() -> None:
    net, x = network(), torch.randn(4, 2, 4, 4)
    names = net.state_dict().keys()
    adapt(net, 3)
    for weight in net.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight)
    expected = net(x)
    merged, other = merge(copy.deepcopy(net)), merge(copy.deepcopy(net))
    assert list(merged.state_dict()) == list(other.state_dict()) == list(names)
    assert torch.allclose(merged(x), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(net(x), expected)  # what was copied keeps its adapters


def test_layers_that_share_a_weight_share_its_adapter() -> None:
    """Merged apart they would be two weights, of which a file gives one back."""
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.SiLU(), nn.Linear(3, 3, bias=False))
    net[2].weight = net[0].weight
    assert adapt(net, 1) == 6
    for weight in net.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight)
    x = torch.randn(4, 3)
    expected = net(x)
    merged = merge(net)
    assert merged[0].weight is merged[2].weight
    assert torch.allclose(merged(x), expected, atol=1e-6)


def test_targets_choose_layers_and_nothing_chosen_is_refused() -> None:
    net = network()
    assert adapt(net, 1, ["3"]) == 7 + 20
    with pytest.raises(SettingError, match=r"no linear or convolutional layer has a name with one of \['attn'\] \(there are: 0, 3, 5"):
        adapt(network(), 1, ["attn"])


def test_share_keeps_equal_frozen_weights_once() -> None:
    one, two = network(), network()
    for net in (one, two):
        adapt(net, 1)
    saved = share(two, one)
    assert saved == sum(w.nbytes for w in one.parameters() if not w.requires_grad)
    assert two[3].parametrizations.weight.original.data_ptr() == one[3].parametrizations.weight.original.data_ptr()
    assert share(two, one) == 0


SMALL = {
    "teacher.network": {"name": "mlp", "width": 16, "depth": 2}, "teacher.training.steps": 10, "trainer.batch_size": 16,
    "trainer.checkpoint_every": 10, "evaluation.draws": 1, "evaluation.metrics": ("frechet-raw",), "trainer.ema": 0.5,
    "student.lora": {"rank": 2}, "trainer.critic_lora": {"rank": 3}, "trainer.monitor_every": 20, "trainer.extra_ema_decays": (0.9,),
    "data.samples": 300,
}  # fmt: skip


@pytest.mark.runs
def test_a_run_with_adapters_leaves_the_base_as_it_is_and_resumes_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = []
    for name in ("whole", "parts"):
        options = {"data.name": "moons", "out": str(tmp_path / name), "trainer.steps": 50}
        options["trainer.on_alarm"] = "warn"  # a teacher of so few steps draws points that are alike
        asked: list[int] = []

        def enough(name: str = name, asked: list[int] = asked) -> bool:
            asked.append(1)
            return name == "parts" and len(asked) == 40

        run = start_run(resolve("distill", options=options, settings=SMALL), should_stop=enough)
        try:
            run.execute()
        except Interrupted:
            matchlib.resume(tmp_path / name)
        found.append(load_file(tmp_path / name / "student" / "model.safetensors"))
    assert all(torch.equal(x, found[1][key]) for key, x in found[0].items())
    teacher = load_file(tmp_path / "whole" / "teacher" / "model.safetensors")
    parts = run.components.distillation
    assert parts is not None
    frozen = {name: w for name, w in parts.student.named_parameters() if not name.endswith((".up", ".down"))}
    assert len(frozen) == len(teacher)
    for name, weight in frozen.items():
        assert torch.equal(weight, teacher[name.replace("parametrizations.", "").removesuffix(".original")]), name
    of_critic = dict(parts.critic.named_parameters())
    for name, weight in frozen.items():  # student and critic have one copy
        assert of_critic[name.removeprefix("field.")].data_ptr() == weight.data_ptr(), name
    changed = {key: x - teacher[key] for key, x in found[0].items() if x.ndim == 2}
    assert any(x.abs().max() > 0 for x in changed.values())
    assert all(torch.linalg.matrix_rank(x, rtol=1e-4) <= 2 for x in changed.values())
    assert matchlib.load(tmp_path / "whole").sample(3).shape == matchlib.load(tmp_path / "whole", ema=0.9).sample(3).shape == (3, 2)


def test_adapters_need_whole_weights() -> None:
    from matchlib.runs.build import build

    with pytest.raises(SettingError, match=r"need trainer\.engine\.parallel=ddp"):
        build(resolve("distill", settings={**SMALL, "trainer.engine.parallel": "fsdp", "data.name": "moons"}))


def test_the_plan_counts_adapters() -> None:
    from matchlib.runs.plan import plan

    large = {"teacher.network": {"name": "mlp", "width": 256, "depth": 3}, "data.name": "moons"}
    full = plan(resolve("distill", settings=large)).parts
    low = plan(resolve("distill", settings={**large, "student.lora": {"rank": 4}, "trainer.critic_lora": {"rank": 4}})).parts
    for kind in ("student", "critic"):
        assert low[f"{kind}'s optimiser"] < 0.1 * full[f"{kind}'s optimiser"]
    assert low["student's averages"] < 0.1 * full["student's averages"]


def test_merge_leaves_other_parametrisations_alone() -> None:
    """A network with weight_norm is saved as it is: its file has to fit what the description makes."""
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), nn.Linear(3, 2))
    before = list(net.state_dict())
    assert list(merge(net).state_dict()) == before
    assert adapt(net, 1) == 3 + 2  # of the second layer alone
    assert list(merge(net).state_dict()) == before
