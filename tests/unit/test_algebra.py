"""Couplings and interpolants: edges that no law covers."""

from __future__ import annotations

import pytest
import torch

import matchlib
from matchlib.algebra.convert import conversion
from matchlib.algebra.records import Batch
from matchlib.errors import DataError
from matchlib.plugins.couplings import MinibatchOT

PATHS, PAIRS, ROWS = matchlib.interpolants, matchlib.couplings, matchlib.objectives


def test_brownian_bridge_coefficients() -> None:
    """T15: a = 1 - t, b = t, c^2 = epsilon t (1 - t), the textbook bridge."""
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    at = PATHS["brownian-bridge"](epsilon=2.0).coefficients(t)
    expected = torch.stack([1 - t, t, (2 * t * (1 - t)).sqrt()], -1)
    assert torch.allclose(at.state.stack(t), expected, atol=1e-12)


def test_edm_steps_are_even_in_t() -> None:
    """Karras et al. 2022, equation 5, with sigma_min = 0.002, sigma_max = 80, rho = 7 and N = 18."""
    path = PATHS["ve"]()
    n, low, high, rho = 18, 0.002, 80.0, 7.0
    t = torch.linspace(1.0, path.time(low), n, dtype=torch.float64)
    i = torch.arange(n, dtype=torch.float64)
    karras = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    assert torch.allclose(path.coefficients(t).state.stack(t)[:, 1], karras)


class _Given(MinibatchOT):
    """Transport from the batch's own sources, block by block."""

    def source(self, batch: Batch, *, generator: torch.Generator) -> torch.Tensor:
        assert batch.source is not None
        return batch.source


def test_sources_that_are_data_never_share_a_plan_with_their_own_sample() -> None:
    """Data in pairs: were a sample's own source in its plan, transport would find the pairs, and the setting would not be unpaired."""
    data = 10.0 * torch.arange(7.0)[:, None]
    for block in (1, 2, 3, 128):
        pair = PAIRS["minibatch-ot-data"](block=block).pair(Batch(data, data.clone()), generator=torch.Generator())
        assert not (pair.source == data).any()
        assert torch.equal(pair.source.sort(0).values, data)


def test_transport_needs_labels_that_are_classes() -> None:
    batch = Batch(torch.randn(4, 2), torch.randn(4, 2), torch.randn(4, 3))
    with pytest.raises(DataError, match="labels must be classes"):
        PAIRS["minibatch-ot"]().pair(batch, generator=torch.Generator())


def test_a_mirror_joins_data_to_themselves() -> None:
    data = torch.randn(3, 2)
    pair = PAIRS["mirror"]().pair(Batch(data), generator=torch.Generator())
    assert torch.equal(pair.source, data)
    model = matchlib.MatchingModel(PAIRS["mirror"](), matchlib.interpolants["noisy-linear"](), matchlib.objectives["noise"]())
    state, time = torch.randn(3, 2), torch.full((3,), 0.4)
    c = model.interpolant.coefficients(time).c
    read = conversion(model, matchlib.objectives["data"]())((state,), state, model.interpolant.coefficients(time), None)
    assert torch.allclose(read, state - c[:, None] * state)  # a + b = 1: data = state - c noise


def test_optimal_transport_is_optimal_and_blocks_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(0)
    data, source = torch.randn(2, 6, 2, generator=generator)
    pair = _Given(block=3).pair(Batch(data, source), generator=generator)
    for block in (slice(0, 3), slice(3, 6)):
        from itertools import permutations

        cost = min(float((data[block] - source[block][list(p)]).square().sum()) for p in permutations(range(3)))
        assert float((data[block] - pair.source[block]).square().sum()) == pytest.approx(cost, rel=1e-5)


def test_the_gradient_through_optimal_transport_misses_its_jumps() -> None:
    """Two points, two sources: as x crosses the other point its source jumps from -1 to 1, and the gradient knows nothing of that."""
    source = torch.tensor([[-1.0], [1.0]])

    def partner(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        data = torch.cat([x, torch.zeros(1, 1)])
        pair = _Given().pair(Batch(data, source), generator=torch.Generator())
        return pair.data, pair.source

    left, right = (partner(torch.tensor([[x]], requires_grad=True)) for x in (-0.1, 0.1))
    assert (left[1][0].item(), right[1][0].item()) == (-1.0, 1.0)
    assert not right[1].requires_grad
    x = torch.tensor([[0.1]], requires_grad=True)
    data, joined = partner(x)
    assert torch.autograd.grad((data * joined).sum(), x)[0].item() == 1.0  # the plan held fixed


@pytest.mark.parametrize("settings", [{}, {"rate": -0.7}, {"rate": 2.0, "g2": 0.3}])
def test_the_prior_of_a_linear_bridge_is_its_sde(settings: dict) -> None:
    """dX = -rate X ds + sqrt(g2) dW: f = -rate and g^2 = g2 at every time, if its own time is time itself."""

    from matchlib.plugins.objectives import drift_and_diffusion

    bridge = matchlib.interpolants["linear-sde-bridge"](**settings)
    f, g2 = drift_and_diffusion(bridge, torch.linspace(0.1, 0.9, 5, dtype=torch.float64))
    assert torch.allclose(f, torch.full_like(f, -bridge.rate), atol=1e-12)
    assert torch.allclose(g2, torch.full_like(g2, bridge.g2), atol=1e-12)
