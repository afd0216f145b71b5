"""Teachers of azula: what a denoiser predicts under each of its noise schedules, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib.adapters import azula, open_teacher
from matchlib.algebra.records import Condition
from matchlib.errors import IncompatibleError
from matchlib.evaluation.doctor import examine
from matchlib.fields.sampler import SampledField

denoise = pytest.importorskip("azula.denoise", reason="azula is not installed")
noise = pytest.importorskip("azula.noise")

SCHEDULES = {
    "VE": noise.VESchedule(0.002, 80.0),
    "VP": noise.VPSchedule(),
    "cosine": noise.CosineSchedule(),
    "rectified": noise.RectifiedSchedule(),
    "decay": noise.DecaySchedule(),
}
MEAN, VARIANCE = 0.7, 0.09


class Gaussian(denoise.Denoiser):
    """The exact denoiser of N(.7, .09) in an azula schedule: mean + alpha v (x_t - alpha mean) / (alpha^2 v + sigma^2)."""

    def __init__(self, schedule: object) -> None:
        super().__init__()
        self.schedule, self.shift = schedule, nn.Parameter(torch.tensor(0.0))

    def forward(self, x_t: Tensor, t: Tensor, **kwargs: Tensor) -> object:
        alpha, sigma = (part[:, None] for part in self.schedule(t))
        label = kwargs.get("label")
        mean = MEAN if label is None else MEAN + label[:, None].to(x_t)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return denoise.DiracPosterior(mean=mean + gain * (x_t - alpha * mean))


@pytest.mark.parametrize("name", SCHEDULES)
def test_azula_predicts_the_data_under_every_schedule(name: str) -> None:
    """E[data | data + s noise = y] of a Gaussian, asked at ten ratios s of noise to data."""
    teacher = azula(Gaussian(SCHEDULES[name]))
    t = torch.linspace(teacher.model.times.t_min, 1, 10, dtype=torch.float64)
    s = teacher.model.interpolant.coefficients(t).state.source[:, None]
    y = torch.linspace(-2, 3, 10, dtype=torch.float64)[:, None]
    wanted = MEAN + VARIANCE / (VARIANCE + s**2) * (y - MEAN)
    assert torch.allclose(teacher(y, t, Condition()), wanted, atol=1e-7)


@pytest.mark.parametrize("name", ["VP", "rectified"])
def test_samples_of_azulas_denoiser_have_its_moments(name: str) -> None:
    teacher = azula(Gaussian(SCHEDULES[name]), sigma_data=VARIANCE**0.5)
    source = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    field = SampledField(teacher, teacher.model, teacher.moments)
    with torch.no_grad():
        x = matchlib.samplers["ode"](steps=40).sample(field, source, None, generator=torch.Generator()).data
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02) and float(x.var()) == pytest.approx(VARIANCE, rel=0.06)


def test_azulas_labels_have_a_keyword() -> None:
    teacher = azula(Gaussian(SCHEDULES["VP"]), label="label")
    x, t = torch.zeros(2, 1), torch.ones(2)
    with_label, without = (teacher(x, t, Condition(label)) for label in (torch.tensor([2, 3]), None))
    assert torch.allclose(with_label - without, torch.tensor([[2.0], [3.0]]), atol=1e-3)


def test_azulas_own_denoiser_is_opened_from_a_file_and_examined(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from azula.denoise import KarrasDenoiser\nfrom azula.noise import CosineSchedule\nfrom torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = nn.Linear(2, 2)\n\n"
        "    def forward(self, x, t):\n        return self.layer(x)\n\n"
        "denoiser = KarrasDenoiser(Net(), CosineSchedule())\n"
    )
    teacher = open_teacher(f"azula:{tmp_path / 'net.py'}:denoiser", trust=True)
    assert teacher is not None and teacher.origin is not None and teacher.origin["adapter"] == "azula"
    assert len(examine(teacher, "moons").times) == 8


def test_azula_refuses_what_has_no_schedule_or_one_that_turns_back() -> None:
    with pytest.raises(IncompatibleError, match="a module with a schedule"):
        azula(nn.Linear(2, 2))
    wrong = Gaussian(lambda t: (torch.ones_like(t), 1 + t - t**2))
    with pytest.raises(IncompatibleError, match="grows with time"):
        azula(wrong)
