"""Refused conversions in the names that settings use."""

from __future__ import annotations

import pytest
import torch

import matchlib
from matchlib import MatchingModel
from matchlib.algebra.convert import Conversion, view
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import ConversionError
from matchlib.runs.explain import explained

ROWS = matchlib.objectives
BRIDGE = MatchingModel(
    matchlib.couplings["paired"](), matchlib.interpolants["brownian-bridge"](), ROWS["velocity"](), TimeDistribution(0.01, 0.99)
)


def test_explained_names_what_would_be_enough_and_it_is() -> None:
    with pytest.raises(ConversionError) as refused:
        view(torch.nn.Identity(), BRIDGE, ROWS["data"]())
    message = str(explained(refused.value))
    assert message.startswith(
        "velocity does not determine data for BrownianBridge with Paired (the field sees the state but not the source)"
    )
    enough = message.split("would be enough: ")[1].split(" or ")
    assert "drift" in enough
    for name in enough:
        Conversion(BRIDGE, (BRIDGE.objective, ROWS[name]()), ROWS["data"]())


def test_explained_leaves_a_refusal_without_a_cure_as_it_is() -> None:
    error = ConversionError("there is no such prediction")
    assert explained(error) is error
