"""Teachers with EDM's preconditioning: exact denoisers, raw networks, and how they are made again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchcfm.models.models import MLP

from matchlib.adapters import EDMPrecond, edm, rebuild
from matchlib.adapters.networks import build, describe
from matchlib.algebra.records import Condition

STATE = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
TIME = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)


def test_edm_makes_a_teacher_in_the_units_of_its_denoiser() -> None:
    """Data N(.2, .5^2) in the denoiser's units: its posterior mean is known at every sigma."""

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return (0.25 * x + sigma[:, None] ** 2 * 0.2) / (0.25 + sigma[:, None] ** 2)

    teacher = edm(denoiser)
    sigma = 80 * TIME**7
    assert torch.allclose(teacher(STATE, TIME, Condition()), denoiser(STATE, sigma))
    assert teacher.moments.data == 0.25
    data = torch.tensor([[-1.0], [1.0]]) / 2**0.5  # of standard deviation 1
    defaults = teacher.defaults.resolve(teacher.model, data, teacher)
    path = teacher.model.interpolant.coefficients(torch.tensor([defaults.t_start], dtype=torch.float64))
    assert float(path.b) == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_edm_precond_of_a_perfect_raw_network_is_the_identity(sign: float) -> None:
    """EDM's training target of F, put in the place of F, gives the data back."""
    data, noise, sigma = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0.1, 0.5, 2.0, 30.0])
    state = data + sigma[:, None] * noise
    n = sigma**2 + 0.25
    target = (data - (0.25 / n)[:, None] * state) / (sigma * 0.5 / n**0.5)[:, None]
    precond = EDMPrecond(lambda x, c: sign * target, 0.5, sign)
    assert torch.allclose(precond(state, sigma), data, atol=1e-4)


def test_describe_nests_the_raw_network_of_edm_precond() -> None:
    denoiser = EDMPrecond(MLP(2, w=8), 0.7, -1.0)
    made = build(describe(denoiser))
    assert (made.sigma_data, made.sign) == (0.7, -1.0)
    assert describe(EDMPrecond(torch.nn.Linear(2, 2))) is None
    teacher = edm(denoiser, sigma_max=40.0)
    again = rebuild(teacher.origin, trust=False)
    assert (again.moments, again.model) == (teacher.moments, teacher.model)
    assert teacher.moments.data == pytest.approx(0.49)
    time = torch.tensor([0.3])
    assert torch.equal(again.field.time(time), teacher.field.time(time))
