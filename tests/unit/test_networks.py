"""Networks: shapes that no law draws."""

from __future__ import annotations

import pytest
import torch

import matchlib
from matchlib.algebra.records import Condition
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
