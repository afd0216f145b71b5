"""Teachers: frozen fields, in any convention, with guidance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import matchlib
from matchlib import Teacher
from matchlib.algebra.records import Condition
from matchlib.errors import IncompatibleError, SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.fields.sampler import CountedField

FLOW = matchlib.families["flow"]().model(paired=False)
REAL = Mixture.normal(0.7, 0.5)
STATE = torch.linspace(-2, 2, 6, dtype=torch.float64)[:, None]
TIME = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
EXACT = GaussianField(FLOW, REAL)(STATE, TIME, Condition())


def test_teacher_from_callable_speaks_any_convention() -> None:
    """A denoiser that wants a time of 0 to 999 and a state of half the size, and answers with data of half the size."""
    data = replace(FLOW, objective=matchlib.objectives["data"]())

    def theirs(step: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        assert y is None
        return 0.5 * GaussianField(data, REAL)(2 * x, step / 999, Condition())

    made = Teacher.from_callable(theirs, data, arguments=("time", "state", "label"), time=lambda t: 999 * t, latent=0.5, output=2.0)
    assert torch.allclose(made.view(FLOW.objective)(STATE, TIME, Condition()), EXACT)
    with pytest.raises(SettingError, match="among state, time, label, source, got 'sate'; did you mean 'state'"):
        Teacher.from_callable(theirs, data, arguments=("sate",))


@pytest.mark.parametrize(
    ("convention", "message"),
    [
        ({"clock": lambda t: t}, r"from_callable takes arguments, time, latent, output, .* got 'clock'"),
        ({"ouput": -1.0}, "got 'ouput'; did you mean 'output'"),
        ({"time": 5}, "time is a function from t to the network's time, .* got 5"),
        ({"latent": "x"}, "latent is a number, or a function of t, that multiplies the state, got 'x'"),
        ({"output": "x"}, "output is a number, or a function of t, that multiplies the answer, got 'x'"),
        ({"normalization": 127.5}, r"normalization is \(shift, scale\), two numbers with scale > 0, got 127.5"),
        ({"normalization": (0.0, 0.0)}, "scale > 0, got"),
    ],
)
def test_teacher_from_callable_refuses_a_convention_in_one_line(convention: dict, message: str) -> None:
    with pytest.raises(SettingError, match=message) as refusal:
        Teacher.from_callable(nn.Identity(), FLOW, **convention)
    assert "\n" not in str(refusal.value)


def test_teacher_from_callable_takes_functions_of_t_for_both_factors() -> None:
    teacher = Teacher.from_callable(lambda x, t: x, FLOW, latent=lambda t: 1 + t, output=lambda t: 2 * t)
    assert torch.allclose(teacher(STATE, TIME, Condition()), (2 * TIME * (1 + TIME))[:, None] * STATE)


class _TwoClasses(nn.Module):
    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return torch.zeros_like(state) if condition.label is None else condition.label[:, None].to(state)


def test_teacher_is_guided_in_the_precision_of_its_states() -> None:
    """2.2 is no number of float32."""
    state, time = torch.zeros(1, 1, dtype=torch.float64), torch.full((1,), 0.5, dtype=torch.float64)
    for interval in (None, (0.2, 0.6)):
        teacher = Teacher(_TwoClasses(), FLOW, guidance=2.2, guidance_interval=interval)
        assert float(teacher(state, time, Condition(torch.ones(1, dtype=torch.int64)))) == pytest.approx(2.2, abs=1e-15)


def test_teacher_is_guided_at_the_times_of_its_interval_alone() -> None:
    guided, plain = Teacher(_TwoClasses(), FLOW, guidance=3.0), Teacher(_TwoClasses(), FLOW)
    some = Teacher(_TwoClasses(), FLOW, guidance=3.0, guidance_interval=(0.2, 0.6))
    state, time, condition = torch.randn(5, 1), torch.tensor([0.1, 0.2, 0.4, 0.6, 0.7]), Condition(torch.tensor([0, 1, 1, 0, 1]))
    inside = torch.tensor([False, True, True, True, False])[:, None]
    expected = torch.where(inside, guided(state, time, condition), plain(state, time, condition))
    assert torch.allclose(some(state, time, condition), expected) and not torch.allclose(expected, plain(state, time, condition))
    for wrong in ((0.6, 0.2), (-0.1, 0.5), (0.5, 1.2), (0.1,)):
        with pytest.raises(SettingError, match="guidance_interval is"):
            Teacher(_TwoClasses(), FLOW, guidance_interval=wrong)  # type: ignore[arg-type]


def test_teacher_guidance_is_linear_from_without_to_with_labels() -> None:
    label = torch.tensor([1, 1, 1, 2, 2, 2])
    for w in (0.0, 0.5, 1.0, 3.0):
        teacher = Teacher(_TwoClasses(), FLOW, guidance=w)
        assert torch.allclose(teacher(STATE, TIME, Condition(label)), w * label[:, None].double())
        assert torch.equal(teacher(STATE, TIME, Condition()), torch.zeros_like(STATE))
        counted = CountedField(teacher)
        counted(STATE, TIME, Condition(label))
        assert counted.nfe == (1 if w == 1 else 2)


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.dropout = nn.Parameter(torch.ones(())), nn.Dropout(0.5)

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return self.dropout(self.weight * state)


def test_teacher_is_a_frozen_copy_in_evaluation_mode() -> None:
    """The original may go on learning; the gradient reaches the state and no weight, and nothing is dropped."""
    field = _Scaled()
    teacher = Teacher(field, FLOW, normalization=(0.5, 2.0)).train()
    with torch.no_grad():
        field.weight.mul_(3)
    state = STATE.clone().requires_grad_()
    answer = teacher(state, TIME, Condition())
    answer.sum().backward()
    assert torch.equal(answer, STATE) and torch.equal(state.grad, torch.ones_like(STATE))
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())
    assert field.training and teacher.normalization == (0.5, 2.0)


def test_teacher_refuses_an_answer_of_another_shape() -> None:
    teacher = Teacher.from_callable(lambda x, t: torch.cat([x, x], 1), FLOW)
    with pytest.raises(IncompatibleError, match=r"predicts shape \(2,\) for states of shape \(1,\)"):
        teacher(STATE, TIME, Condition())


def test_teacher_of_a_network_that_torch_does_not_copy_says_so() -> None:
    with pytest.warns(FutureWarning):  # torch's own, of its old form
        net = nn.utils.weight_norm(nn.Linear(2, 2))
    net(torch.zeros(1, 2))
    with pytest.raises(IncompatibleError, match=r"cannot be copied: .*; where it has torch\.nn\.utils\.weight_norm"):
        Teacher.from_callable(net, matchlib.families.flow().model(paired=False), arguments=("state",))
