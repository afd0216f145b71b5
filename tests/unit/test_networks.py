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
