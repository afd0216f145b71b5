"""Agreement with code that nobody here wrote, after the change of convention, to 1e-6.

torchcfm runs time the other way (t = 1 is data), so its velocities have the other sign; azula and diffusers share our direction, diffusers
in steps of an integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from azula.denoise import GaussianDenoiser, KarrasDenoiser
from azula.linalg.covariance import DiagonalCovariance
from azula.noise import CosineSchedule, RectifiedSchedule, Schedule, VPSchedule
from azula.sample import DDPMSampler, EulerSampler
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
    SchrodingerBridgeConditionalFlowMatcher,
    TargetConditionalFlowMatcher,
    VariancePreservingConditionalFlowMatcher,
)
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from matchlib import MatchingModel, couplings, interpolants, metrics, objectives, samplers
from matchlib.algebra.interpolant import Interpolant
from matchlib.algebra.model import Moments
from matchlib.algebra.records import Batch, Condition, Pair
from matchlib.algebra.times import TimeDistribution
from matchlib.evaluation.reference import Extractor, Reference
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.preconditioned import Preconditioned
from matchlib.fields.sampler import SampledField

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(n: int = 6, shape: tuple[int, ...] = (2, 3)) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Data, source, noise and times, away from the ends."""
    data, source, noise = torch.randn(3, n, *shape, dtype=F64, generator=generator())
    return data, source, noise, torch.rand(n, dtype=F64, generator=generator(1)) * 0.9 + 0.05


def close(left: Tensor, right: Tensor, tolerance: float = 1e-6) -> None:
    gap = ((left - right).abs() / (1 + right.abs())).max().item()
    assert gap < tolerance, gap


# -- torchcfm: paths and targets --------------------------------------------------------------------------------------------

MATCHERS = [
    ("linear", {}, ConditionalFlowMatcher(sigma=0.0)),
    ("trigonometric", {}, VariancePreservingConditionalFlowMatcher(sigma=0.0)),
    ("brownian-bridge", {"epsilon": 0.49}, SchrodingerBridgeConditionalFlowMatcher(sigma=0.7)),
]


@pytest.mark.parametrize(("name", "settings", "matcher"), MATCHERS, ids=[row[0] for row in MATCHERS])
def test_paths_and_velocities_of_torchcfm(name: str, settings: dict, matcher: ConditionalFlowMatcher) -> None:
    data, source, noise, t = latents()
    at = interpolants[name](**settings).coefficients(t)
    sigma = torch.as_tensor(matcher.compute_sigma_t(1 - t)).expand(len(t))
    state = matcher.compute_mu_t(source, data, 1 - t) + sigma[:, None, None] * noise
    close(at.state(data, source, noise), state)
    close(at.velocity(data, source, noise), -matcher.compute_conditional_flow(source, data, 1 - t, state))


def test_the_gaussian_path_of_torchcfm() -> None:
    """Lipman et al.'s path to a Gaussian: the same state and target without a stated source."""
    data, source, _, t = latents()
    at = interpolants["linear"]().coefficients(t)
    matcher = TargetConditionalFlowMatcher(sigma=0.0)
    mean, spread = matcher.compute_mu_t(source, data, (1 - t)[:, None, None]), matcher.compute_sigma_t(1 - t)
    state = mean + spread[:, None, None] * source
    close(at.state(data, source, None), state)
    close(at.velocity(data, source, None), -matcher.compute_conditional_flow(source, data, 1 - t, state))


def test_the_transport_plan_of_torchcfm_costs_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    data, source = torch.randn(2, 16, 3, dtype=F64, generator=generator())
    plan = ExactOptimalTransportConditionalFlowMatcher(sigma=0.0).ot_sampler.get_map(source, data)
    theirs = (torch.as_tensor(plan) * torch.cdist(source, data).square()).sum()
    monkeypatch.setattr(couplings["minibatch-ot"], "source", lambda self, batch, generator: batch.source)
    pair = couplings["minibatch-ot"]().pair(Batch(data, source), generator=generator())
    close((pair.data - pair.source).square().sum(1).mean(), theirs)


# -- azula: schedules, posteriors, steps ------------------------------------------------------------------------------------

ALPHA = 0.03
SCHEDULES: list[tuple[str, dict, Schedule]] = [
    ("linear", {}, RectifiedSchedule(alpha_min=0.0, sigma_min=0.0)),
    ("vp-linear", {"beta_min": 1e-12, "beta_max": -4 * math.log(ALPHA)}, VPSchedule(alpha_min=ALPHA, sigma_min=0.0)),
    ("trigonometric", {}, CosineSchedule(alpha_min=0.0, sigma_min=0.0)),
]
ids = [row[0] for row in SCHEDULES]


def model_of(path: Interpolant, objective: str = "data", times: TimeDistribution = TimeDistribution(0.05, 0.95)) -> MatchingModel:
    return MatchingModel(couplings["independent"](), path, objectives[objective](), times)


@pytest.mark.parametrize(("name", "settings", "schedule"), SCHEDULES, ids=ids)
def test_schedules_of_azula(name: str, settings: dict, schedule: Schedule) -> None:
    t = torch.linspace(0.01, 0.99, 50, dtype=F64)
    at = interpolants[name](**settings).coefficients(t)
    for ours, theirs in zip((at.a, at.b), schedule(t), strict=True):
        close(torch.as_tensor(ours), theirs)


@pytest.mark.parametrize(("name", "settings", "schedule"), SCHEDULES, ids=ids)
def test_the_gaussian_posterior_of_azula(name: str, settings: dict, schedule: Schedule) -> None:
    """E[data | state] for a Gaussian with a different variance in each entry, and v, epsilon and velocity made of it."""
    mean, variance = torch.tensor([0.5, -1.0, 2.0], dtype=F64), torch.tensor([0.3, 1.5, 0.8], dtype=F64)
    theirs = GaussianDenoiser(mean, DiagonalCovariance(variance), schedule)
    covariance = torch.zeros(1, 1, 2, 3, 2, 3, dtype=F64)
    covariance[0, 0, 0, :, 0], covariance[0, 0, 1, :, 1] = torch.diag(variance), torch.eye(3, dtype=F64)
    law = Mixture(torch.ones(1, 1, dtype=F64), torch.stack([mean, 0 * mean])[None, None], covariance)
    state = torch.randn(4, 3, dtype=F64, generator=generator())
    for time in (0.1, 0.5, 0.9):
        t = torch.tensor(time, dtype=F64)
        ours = GaussianField(model_of(interpolants[name](**settings)), law)(state, t.expand(4), Condition())
        close(ours, theirs(state, t).mean)


class _Wave(nn.Module):
    """A network of no meaning."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.7, dtype=F64))

    def forward(self, x: Tensor, *unused: object) -> Tensor:
        return torch.sin(self.scale * x)


@pytest.mark.parametrize(("name", "settings", "schedule"), SCHEDULES, ids=ids)
def test_preconditioning_is_that_of_edm(name: str, settings: dict, schedule: Schedule) -> None:
    state, _, _, t = latents()
    ours = Preconditioned(_Wave(), model_of(interpolants[name](**settings)), Moments())
    close(ours(state, t, Condition()), KarrasDenoiser(_Wave(), schedule)(state, t).mean)


@pytest.mark.parametrize(("name", "settings", "schedule"), SCHEDULES[1:2], ids=ids[1:2])
def test_ancestral_steps_are_those_of_ddpm(name: str, settings: dict, schedule: Schedule) -> None:
    """One posterior step, with the same noise: torch's global generator in theirs, an explicit one in ours."""
    denoiser = KarrasDenoiser(_Wave(), schedule)
    path = interpolants[name](**settings)
    state = torch.randn(5, 3, dtype=F64, generator=generator())
    t, s = torch.tensor(0.7, dtype=F64), torch.tensor(0.55, dtype=F64)
    torch.manual_seed(3)
    theirs = DDPMSampler(denoiser, silent=True).step(state, t, s)
    ours = path.transition(state, denoiser(state, t).mean, t.expand(5), s.expand(5), source=None, generator=generator(3))
    close(ours, theirs.detach())


def test_euler_sampling_of_the_rectified_flow() -> None:
    """Azula's Euler step is exponential, ours is plain: on straight lines they agree to first order, and both on the exact map."""
    mean, std, n = 0.7, 0.5, 2000
    source = torch.randn(64, 1, dtype=F64, generator=generator())
    schedule = RectifiedSchedule(alpha_min=1e-6, sigma_min=1e-6)
    covariance = DiagonalCovariance(torch.tensor([std**2], dtype=F64))
    denoiser = GaussianDenoiser(torch.tensor([mean], dtype=F64), covariance, schedule)
    theirs = EulerSampler(denoiser, steps=n, silent=True, dtype=F64)(source)
    model = model_of(interpolants["linear"](), "velocity", TimeDistribution())
    of = SampledField(GaussianField(model, Mixture.normal(mean, std)), model)
    ours = replace(samplers["ode"](), method="euler", steps=n).sample(of, source, None, generator=generator()).data
    close(ours, theirs, 3e-3)
    close(ours, mean + std * source, 3e-3)


# -- diffusers: the schedulers that are cheap to compare --------------------------------------------------------------------


def test_noising_and_v_of_diffusers() -> None:
    """DDPMScheduler's forward process and its v-prediction, at the times where our path has its alphas."""
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    steps = torch.tensor([10, 300, 900])
    a2 = scheduler.alphas_cumprod[steps].double()
    data, source = torch.randn(2, 3, 4, dtype=F64, generator=generator())
    t = 2 / math.pi * a2.sqrt().acos()  # a quarter circle passes through every (a, b) with a^2 + b^2 = 1
    model = model_of(interpolants["trigonometric"](), "v")
    point = model.interpolate(Pair(data, source), t, generator=generator())
    close(point.state, scheduler.add_noise(data, source, steps), 1e-5)
    close(model.target(point), scheduler.get_velocity(data, source, steps), 1e-5)


@pytest.mark.parametrize("eta", [1.0])
def test_the_posterior_variance_of_diffusers(eta: float) -> None:
    """DDPMScheduler's fixed-small variance is that of our posterior between the same two noise levels."""
    scheduler = DDPMScheduler(num_train_timesteps=1000, variance_type="fixed_small", clip_sample=False)
    scheduler.set_timesteps(1000)
    step = 400
    a2_t, a2_s = scheduler.alphas_cumprod[[step, step - 1]].double()
    path = interpolants["vp-linear"]()

    class Two(type(path)):  # type: ignore[misc]
        """The prior whose two times have the scheduler's two noise levels."""

        def prior(self, t: Tensor) -> tuple[Tensor, Tensor]:
            a2 = torch.where(t > 0.5, a2_t, a2_s)
            return a2.sqrt(), 1 - a2

    state, data = torch.randn(2, 20_000, 1, dtype=F64, generator=generator())
    t, s = torch.full((20_000,), 0.6, dtype=F64), torch.full((20_000,), 0.4, dtype=F64)
    ours = Two().transition(state, data, t, s, source=None, generator=generator(5))
    noise = torch.randn(20_000, 1, dtype=F64, generator=generator(5))
    epsilon = (state - a2_t.sqrt() * data) / (1 - a2_t).sqrt()
    mean = DDIMScheduler(num_train_timesteps=1000, clip_sample=False, set_alpha_to_one=False)
    mean.set_timesteps(1000)
    mean.alphas_cumprod = scheduler.alphas_cumprod
    theirs = mean.step(epsilon, step, state, eta=eta, variance_noise=noise).prev_sample
    close(ours, theirs, 1e-5)
    close((ours - theirs + noise * scheduler._get_variance(step).double().sqrt()).var(), scheduler._get_variance(step).double(), 2e-2)


def test_the_noise_grid_of_edm_in_diffusers() -> None:
    """Evenly spaced times of the path ``ve`` are EDM's sigmas: 80 down to .002 with rho = 7."""
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, rho=7.0)
    scheduler.set_timesteps(18)
    path = interpolants["ve"](sigma_max=80.0, rho=7.0)
    t = torch.linspace(1.0, path.time(0.002), 18, dtype=F64)
    close(torch.as_tensor(path.coefficients(t).b), scheduler.sigmas[:18].double(), 1e-5)


def test_the_flow_path_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    data, source = torch.randn(2, 3, 2, 2, 2, dtype=F64, generator=generator())
    steps = scheduler.timesteps[[0, 300, 999]]
    theirs = scheduler.scale_noise(data, steps, source)
    sigma = scheduler.sigmas[[0, 300, 999]].double()
    close(interpolants["linear"]().coefficients(sigma).state(data, source, None), theirs, 1e-5)


# -- torchmetrics: scores ---------------------------------------------------------------------------------------------------


class Pooled(nn.Module):
    """Features of 8-bit images: fixed random projections."""

    num_features = 12

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.randn(3 * 16, 12, dtype=F64, generator=generator(3)) / 400)

    def forward(self, images: Tensor) -> Tensor:
        return images.to(F64).flatten(1) @ self.matrix


class PooledFeatures(Extractor):
    """The same, as our metrics take them."""

    def __init__(self) -> None:
        self.network = Pooled()

    def features(self, events: Tensor) -> Tensor:
        return self.network(events)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("frechet", lambda: FrechetInceptionDistance(Pooled(), input_img_size=(3, 4, 4)).set_dtype(F64)),
        ("kid", lambda: KernelInceptionDistance(Pooled(), subsets=1, subset_size=300)),
    ],
)
def test_scores_are_those_of_torchmetrics(name: str, theirs: Callable[[], Any]) -> None:
    """On the same features, with every image in the only subset of the kernel distance."""
    real, fake = (torch.randint(0, most, (300, 3, 4, 4), dtype=torch.uint8, generator=generator(most)) for most in (200, 256))
    metric = theirs()
    metric.update(real, real=True)
    metric.update(fake, real=False)
    found = metric.compute()
    expected = float(found[0] if isinstance(found, tuple) else found)
    ours = metrics[name](Reference(real, real, PooledFeatures()), fake)
    assert ours == pytest.approx(expected, rel=1e-6)
    assert expected > 0.01
