"""What determines what: the refusals and permissions that the theory predicts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import matchlib
from matchlib import MatchingModel, ScheduledInterpolant
from matchlib.algebra.convert import Conversion, determines, view
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import ConversionError, IncompatibleError

PATHS, PAIRS, ROWS = matchlib.interpolants, matchlib.couplings, matchlib.objectives
INSIDE = TimeDistribution(0.01, 0.99)


def model(coupling: str, interpolant: Any, objective: str, *, sees_source: bool = False) -> MatchingModel:
    path = PATHS[interpolant]() if isinstance(interpolant, str) else interpolant
    return MatchingModel(PAIRS[coupling](), path, ROWS[objective](), INSIDE, sees_source)


def read(m: MatchingModel, wanted: str) -> bool:
    return determines(m, ROWS[wanted]())


def test_determines_nothing_else_by_velocity_on_a_bridge_with_a_general_source() -> None:
    m = model("paired", "brownian-bridge", "velocity")
    assert read(m, "velocity")
    assert not any(read(m, other) for other in ("data", "source", "noise", "score", "drift"))


def test_determines_data_by_drift_and_noise_by_score_on_a_bridge() -> None:
    for one, two in (("drift", "data"), ("data", "drift"), ("score", "noise"), ("noise", "score")):
        assert read(model("paired", "brownian-bridge", one), two)
    assert not read(model("paired", "brownian-bridge", "data"), "score")


def test_determines_data_by_velocity_if_the_field_sees_the_source() -> None:
    m = model("paired", "brownian-bridge", "velocity", sees_source=True)
    assert read(m, "data")


def test_determines_everything_with_a_gaussian_source() -> None:
    names = ("velocity", "data", "source", "epsilon", "score", "v")
    for path in ("linear", "vp-linear", "vp-cosine", PATHS["ve"](rho=1.0), "trigonometric"):
        for name in names:
            assert all(read(model("independent", path, name), other) for other in names), (path, name)
    names = ("velocity", "data", "source", "noise", "score")
    assert all(read(model("independent", "noisy-linear", name), other) for name in names for other in names)


def test_determines_no_data_where_the_noise_ratio_stands_still() -> None:
    """c = 3 sin^2(pi t): (b^2 + c^2)/a^2 has a zero derivative inside, where velocity says nothing of the data."""

    @dataclass(frozen=True)
    class Tall(ScheduledInterpolant):
        def schedule(self, t: Tensor) -> tuple[Any, Any, Any]:
            return 1.0 - t, t, 3.0 * torch.sin(math.pi * t) ** 2

    assert not read(model("independent", Tall(), "velocity"), "data")
    assert read(model("independent", Tall(), "data"), "score")


def test_view_refuses_the_score_under_optimal_transport() -> None:
    """1-D exact OT: the regression of -source/b has slope -2.667, the true score -1.778: reading one as the other would be wrong."""
    m = model("minibatch-ot", "linear", "velocity")
    with pytest.raises(ConversionError, match="no score to predict"):
        view(torch.nn.Identity(), m, ROWS["score"]())
    with pytest.raises(IncompatibleError, match="MinibatchOT"):
        model("minibatch-ot", "linear", "score")


def test_conversion_error_has_what_was_asked() -> None:
    m = model("paired", "brownian-bridge", "velocity")
    with pytest.raises(ConversionError, match="Velocity does not determine Data for BrownianBridge with Paired") as refused:
        view(torch.nn.Identity(), m, ROWS["data"]())
    assert (refused.value.model, refused.value.predicted, refused.value.wanted) == (m, (m.objective,), ROWS["data"]())


def test_conversion_of_two_heads_gives_more_than_either() -> None:
    m = model("paired", "noisy-linear", "velocity")
    both = Conversion(m, (ROWS["velocity"](), ROWS["score"]()), ROWS["data"]())
    generator = torch.Generator().manual_seed(0)
    x, z, w = torch.randn(3, 4, 2, dtype=torch.float64, generator=generator)
    at = m.interpolant.coefficients(torch.tensor([0.1, 0.3, 0.6, 0.9], dtype=torch.float64))
    heads = [ROWS[name]().row(m, at)(x, z, w) for name in ("velocity", "score")]
    assert torch.allclose(both(heads, at.state(x, z, w), at, None), x)


def test_conversion_of_float32_fields_is_made_in_float64() -> None:
    m = model("independent", "linear", "velocity")
    t = torch.tensor([0.011], dtype=torch.float32)
    x, z = torch.tensor([[1.0]]), torch.tensor([[0.5]])
    at = m.interpolant.coefficients(t)
    conversion = Conversion(m, (m.objective,), ROWS["data"]())
    assert conversion((z - x,), at.state(x, z, None), at, None).dtype == torch.float32
    assert torch.allclose(conversion((z - x,), at.state(x, z, None), at, None), x, atol=1e-5)
