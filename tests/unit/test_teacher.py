"""The teacher: frozen, checked, and any module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import matchlib
from matchlib.errors import ArtifactError, IncompatibleError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.teacher import Teacher

FLOW = matchlib.families["flow"]().model(paired=False)


def test_teacher_is_a_frozen_copy() -> None:
    net = nn.Linear(2, 2)

    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, state: torch.Tensor, time: torch.Tensor, condition: object) -> torch.Tensor:
            return self.net(state)

    teacher = Teacher(Field(), FLOW)
    x = torch.ones(1, 2, requires_grad=True)
    before = teacher(x, torch.zeros(1), None).detach().clone()
    with torch.no_grad():
        net.weight += 1
    assert torch.equal(teacher(x, torch.zeros(1), None), before)
    assert torch.autograd.grad(teacher(x, torch.zeros(1), None).sum(), x)[0].abs().sum() > 0
    assert not any(w.requires_grad for w in teacher.parameters())
    assert not teacher.train().training


def test_teacher_that_answers_in_another_shape_is_refused() -> None:
    class Wrong(nn.Module):
        def forward(self, state: torch.Tensor, time: torch.Tensor, condition: object) -> torch.Tensor:
            return state[:, :1]

    with pytest.raises(IncompatibleError, match=r"predicts shape \(1,\) for states of shape \(2,\)"):
        Teacher(Wrong(), FLOW)(torch.ones(3, 2), torch.zeros(3), None)


def test_distill_takes_a_teacher_made_in_python(tmp_path: Path) -> None:
    """Any module with forward(state, time, condition): here the exact field of a Gaussian, which is no registered network."""

    class Exact(GaussianField):
        def __init__(self) -> None:
            super().__init__(FLOW, Mixture.normal(dimension=2))
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, *seen: object) -> torch.Tensor:
            return self.scale * super().forward(*seen).to(torch.float32)  # type: ignore[arg-type]

    made = matchlib.distill(Teacher(Exact(), FLOW), data="checkerboard", steps=4, out=tmp_path / "run", settings={"evaluation.draws": 1})
    assert made.sample(3).shape == (3, 2)
    with pytest.raises(ArtifactError, match=r"register it in matchlib\.networks"):
        matchlib.load(tmp_path / "run")
