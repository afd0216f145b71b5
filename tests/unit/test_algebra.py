"""Rows, times, models: edges that no law covers."""

from __future__ import annotations

import math

import pytest
import torch

import matchlib
from matchlib.algebra.convert import conversion
from matchlib.algebra.model import MatchingModel, Moments, best_multiple
from matchlib.algebra.pinned import pin
from matchlib.algebra.records import Batch
from matchlib.algebra.rows import Row, expand
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import DataError, IncompatibleError, SettingError
from matchlib.plugins.couplings import MinibatchOT

PATHS, PAIRS, ROWS = matchlib.interpolants, matchlib.couplings, matchlib.objectives


def test_a_time_of_another_size_is_refused_not_broadcast() -> None:
    """A batch whose size equals its width must not be scaled along the wrong axis."""
    x = torch.ones(5, 5)
    assert torch.equal(expand(torch.arange(5.0), x) * x, torch.arange(5.0)[:, None].expand(5, 5))
    with pytest.raises(ValueError, match="one time per sample"):
        expand(torch.ones(1), x)
    with pytest.raises(ValueError, match="one time per sample"):
        expand(torch.ones(5, 1), x)


def test_zero_coefficients_leave_latents_alone() -> None:
    x = torch.ones(2, 3)
    assert torch.equal(Row(data=2.0)(x, x * math.nan, None), 2 * x)
    assert torch.equal(Row()(x, x, None), torch.zeros(2, 3))


def test_brownian_bridge_coefficients() -> None:
    """T15: a = 1 - t, b = t, c^2 = epsilon t (1 - t), the textbook bridge."""
    t = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    at = PATHS["brownian-bridge"](epsilon=2.0).coefficients(t)
    expected = torch.stack([1 - t, t, (2 * t * (1 - t)).sqrt()], -1)
    assert torch.allclose(at.state.stack(t), expected, atol=1e-12)


def test_a_pinned_process_has_the_law_of_the_process() -> None:
    """Averaged over the source that the process itself reaches, the bridge has the process's own law at every time."""
    bridge = PATHS["linear-sde-bridge"](rate=0.7, g2=1.3, warp=0.5)
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    alpha, var = bridge.prior(t)
    alpha_1, var_1 = bridge.prior(torch.ones_like(t))
    a, b, c2 = pin((alpha, var), (alpha_1, var_1))
    assert torch.allclose(a + b * alpha_1, alpha)
    assert torch.allclose(c2 + b**2 * var_1, var)


def test_edm_steps_are_even_in_t() -> None:
    """Karras et al. 2022, equation 5, with sigma_min = 0.002, sigma_max = 80, rho = 7 and N = 18."""
    path = PATHS["ve"]()
    n, low, high, rho = 18, 0.002, 80.0, 7.0
    t = torch.linspace(1.0, path.time(low), n, dtype=torch.float64)
    i = torch.arange(n, dtype=torch.float64)
    karras = (high ** (1 / rho) + i / (n - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    assert torch.allclose(path.coefficients(t).state.stack(t)[:, 1], karras)


@pytest.mark.parametrize("path", ["linear", "ve", "vp-linear", "brownian-bridge", "noisy-linear"])
def test_log_ratio_times_are_normal_in_the_log_ratio(path: str) -> None:
    interpolant = PATHS[path]()
    times = TimeDistribution(0.01, 0.99, (-0.5, 0.7))
    t = times.sample(interpolant, torch.empty(20_000, 1, dtype=torch.float64), torch.Generator().manual_seed(0))
    at = interpolant.coefficients(t)
    ratio = 0.5 * torch.log(torch.as_tensor(at.variance)) - torch.log(torch.as_tensor(at.a).expand(t.shape))
    inside = interpolant.coefficients(torch.tensor([0.01, 0.99], dtype=torch.float64))
    edges = 0.5 * torch.log(inside.variance) - torch.log(torch.as_tensor(inside.a).expand(2))
    normal = torch.distributions.Normal(-0.5, 0.7)
    low, high = normal.cdf(edges)
    uniform = ((normal.cdf(ratio) - low) / (high - low)).sort().values
    assert (uniform - torch.linspace(0, 1, len(uniform), dtype=torch.float64)).abs().max() < 2e-3


def test_times_are_even_over_a_batch_and_uniform_over_batches() -> None:
    draw = lambda n, seed: TimeDistribution().sample(PATHS["linear"](), torch.empty(n, 1), torch.Generator().manual_seed(seed))  # noqa: E731
    assert (draw(10, 0).sort().values.diff() - 0.1).abs().max() < 1e-6
    first = torch.stack([draw(1, seed) for seed in range(2000)]).flatten()
    assert abs(first.mean() - 0.5) < 5 * (1 / 12 / 2000) ** 0.5


@pytest.mark.parametrize("times", [{"t_min": 0.5, "t_max": 0.5}, {"t_min": -0.1}, {"t_max": 1.1}, {"log_sigma": (0.0, 0.0)}])
def test_times_outside_their_domain_are_refused(times: dict) -> None:
    with pytest.raises(SettingError):
        TimeDistribution(**times)


def test_a_model_without_its_prediction_is_refused_when_composed() -> None:
    for coupling, path, objective in (
        ("independent", "linear", "noise"),
        ("independent", "linear", "drift"),
        ("paired", "linear", "score"),
        ("paired", "trigonometric", "epsilon"),
    ):
        with pytest.raises(IncompatibleError):
            MatchingModel(PAIRS[coupling](), PATHS[path](), ROWS[objective]())


def test_the_gradient_of_the_loss_reaches_the_data() -> None:
    model = matchlib.families["flow"]().model(paired=False)
    x = torch.randn(3, 2, requires_grad=True)
    loss = model.loss(lambda state, time, condition: state, Batch(x), generator=torch.Generator().manual_seed(0))
    assert loss.shape == (3,)
    assert torch.autograd.grad(loss.sum(), x)[0].abs().min() > 0


def test_whitened_rows_have_the_product_of_the_latents() -> None:
    """E[left right] from the moments equals the dot product of whitened rows."""
    moments = Moments(data=2.0, source=3.0, cross=1.5)
    left, right = Row(0.3, -1.2, 0.7), Row(2.0, 0.4, -0.1)
    expected = 0.3 * 2.0 * 2.0 - 1.2 * 0.4 * 3.0 + 0.7 * -0.1 + (0.3 * 0.4 - 1.2 * 2.0) * 1.5
    assert moments.whiten(left).dot(moments.whiten(right)) == pytest.approx(expected)


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


def test_the_best_multiple_leaves_a_rest_that_is_orthogonal_to_the_state() -> None:
    generator = torch.Generator().manual_seed(0)
    target, state = (torch.randn(6, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(6, generator=generator, dtype=torch.float64)
    rest = target - best_multiple(target, state, weight) * state
    assert abs((weight[:, None, None] * rest * state).sum().item()) < 1e-12
    assert best_multiple(3 * state, state).item() == pytest.approx(3.0)


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("family", sorted(matchlib.families))
def test_a_point_beside_another_shares_what_the_data_leave_open(family: str, paired: bool) -> None:
    """Time and noise always; the source only where data and source are independent, for else it belongs to its data."""
    model = matchlib.families[family]().model(paired=paired)
    generator = torch.Generator().manual_seed(0)
    one, other = (Batch(*(torch.randn(8, 3, generator=generator) for _ in range(2))) for _ in range(2))
    point = model.sample_path(one, generator=generator)
    beside = model.beside(point, other, generator=generator)
    assert torch.equal(beside.data, other.data) and torch.equal(beside.time, point.time)
    assert point.noise is None if beside.noise is None else torch.equal(beside.noise, point.noise)
    assert torch.equal(beside.source, point.source) == model.coupling.independent
    assert torch.equal(beside.source, other.source) == model.coupling.paired
    at = point.coefficients
    assert torch.allclose(beside.state, at.state(beside.data, beside.source, beside.noise))


def test_labels_go_with_the_data_of_a_point_beside_another() -> None:
    model, generator = matchlib.families["flow"]().model(paired=False), torch.Generator().manual_seed(0)
    one, other = (Batch(torch.zeros(4, 2), None, torch.full((4,), label)) for label in (0, 1))
    beside = model.beside(model.sample_path(one, generator=generator), other, generator=generator)
    assert torch.equal(beside.condition.label, other.label)
