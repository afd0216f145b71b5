"""What makes turns cheap changes nothing, waits for nothing and loops over no weights."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import matchlib
from matchlib.algebra.records import Condition
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import SettingError
from matchlib.fields.preconditioned import NetworkSpec, Preconditioned
from matchlib.fields.teacher import Teacher
from matchlib.runs.artifact import build_field
from matchlib.training.checkpoint import TrainState
from matchlib.training.distributed import SingleProcess
from matchlib.training.precision import prepare
from matchlib.training.random import Streams
from matchlib.training.task import DistillationTask, Learner, MatchingTask
from matchlib.training.trainer import Trainer, TrainerSettings

UNET, MLP = {"name": "unet", "channels": 8}, {"name": "mlp", "width": 16, "depth": 1}
DATA = Dataset.from_arrays(
    "images", np.random.default_rng(0).normal(size=(64, 1, 6, 6)).astype(np.float32), labels=np.arange(64) % 3, held_out=np.arange(8)
)


def trainer_of(
    family: str = "flow", loss: str = "realuid", student: str = "onestep", network: dict[str, Any] | None = None, **settings: Any
) -> Trainer:
    """A training of random networks."""
    torch.manual_seed(0)
    model = matchlib.families[family]().model(paired=False)
    field = build_field(network or MLP, NetworkSpec(DATA.shape, 3), model, DATA.moments(model.coupling))
    for weight in field.parameters():
        nn.init.normal_(weight, std=0.1)
    teacher = Teacher(field, model)
    made, critic = matchlib.students[student](teacher, None), copy.deepcopy(field)
    options = {"alpha": 2.0, "beta": 2.0, "gamma": 0.5} if loss == "realuid" else {}
    of = Distillation(teacher, made, critic, matchlib.losses.build({"name": loss, **options}))
    learners = Learner(made, extra_ema_decays=(0.9, 0.99)), Learner(critic, ema=0.0)
    algorithm = DistillationTask(of, *learners, DATA, Streams(0, torch.device("cpu")), batch_size=12, critic_steps=2)
    return Trainer(algorithm, TrainerSettings(10**6, **settings))


CRITIC_TURN, STUDENT_TURN = 372, 399  # operations, of the small network here: a change that adds one has to say why
WAITS = ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__", "__index__", "__array__")


def forbid(patch: pytest.MonkeyPatch) -> None:
    """Makes everything with which the host would wait for the device an error."""
    for name in WAITS:

        def waits(*args: Any, name: str = name, **kwargs: Any) -> Any:
            raise AssertionError(f"the host waits for the device: {name}")

        patch.setattr(Tensor, name, waits)


CASES: list[dict[str, Any]] = [
    *({"family": family} for family in ("flow", "diffusion", "diffusion-vp", "bridge", "interpolant")),
    {"loss": "uid"},
    {"loss": "sid"},
    {"student": "fewstep"},
    {"network": UNET},
    {"max_grad_norm": 1.0},
    {"adaptive_clip": 3.0},
    {"micro_batch_size": 5},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_turn_waits_for_the_device(monkeypatch: pytest.MonkeyPatch, case: dict[str, Any]) -> None:
    trainer = trainer_of(**case)
    for _ in range(4):
        trainer._turn()
    with monkeypatch.context() as patch:
        forbid(patch)
        with pytest.raises(AssertionError, match="waits"):
            torch.ones(1).item()
        for _ in range(6):
            trainer._turn()


class Operations(TorchDispatchMode):
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[str(function)] += 1
        return function(*args, **(kwargs or {}))


def test_operations_of_a_turn_are_no_more_than_they_were() -> None:
    trainer = trainer_of()
    counts = []
    for turn in range(9):
        with Operations() as seen:
            trainer._turn()
        if turn > 2:
            counts.append(sum(seen.found.values()))
    assert counts == [*counts[:3]] * 2, "turns of a kind are alike"
    critic, _, student = counts[:3]
    assert critic <= CRITIC_TURN
    assert student <= STUDENT_TURN


def test_a_step_takes_as_many_operations_for_many_weights_as_for_few() -> None:
    """No loop over parameters in Python: not in the optimiser, the guard, clipping or the averages."""
    counts = []
    for depth in (1, 20):
        module = nn.Sequential(*(nn.Linear(3, 3) for _ in range(depth)))
        state = TrainState(Learner(module, extra_ema_decays=(0.9, 0.99)), SingleProcess())
        for _ in range(2):
            for weight in state.weights:
                weight.grad = torch.ones_like(weight)
            with Operations() as seen:
                state.step(1e-3, 1.0, 3.0)
        counts.append(seen.found)
    assert counts[0] == counts[1]


def answers(network: dict[str, Any], **options: Any) -> tuple[Tensor, list[Tensor]]:
    """What a field answers, and the gradients of its square."""
    torch.manual_seed(0)
    model = matchlib.families["flow"]().model(paired=False)
    field = build_field(network, NetworkSpec((2, 6, 6), 3), model, DATA.moments(model.coupling))
    for weight in field.parameters():
        nn.init.normal_(weight, std=0.2)
    prepare(field, **options)
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(5, 2, 6, 6, generator=generator), torch.rand(5, generator=generator)
    made = field(x, t, Condition(torch.arange(5) % 3))
    made.square().mean().backward()
    return made.detach(), [weight.grad for weight in field.parameters() if weight.grad is not None]


def apart(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]]) -> float:
    """The largest difference of answers and of gradients, each relative to the largest there is."""
    pairs = [(one[0], other[0]), tuple(torch.cat([g.flatten() for g in x[1]]) for x in (one, other))]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


@pytest.mark.parametrize("network", [UNET, MLP], ids=["unet", "mlp"])
@pytest.mark.parametrize(
    ("options", "most"), [({"channels_last": True}, 1e-5), ({"checkpointing": True}, 0.0), ({"precision": "tf32"}, 0.0)]
)
def test_layout_and_checkpointing_change_nothing(network: dict[str, Any], options: dict[str, Any], most: float) -> None:
    assert apart(answers(network), answers(network, **options)) <= most


@pytest.mark.parametrize("network", [UNET, MLP], ids=["unet", "mlp"])
def test_half_precision_is_that_of_the_networks_alone(network: dict[str, Any]) -> None:
    exact, rough = answers(network), answers(network, precision="bf16")
    assert rough[0].dtype == torch.float32
    assert all(g.dtype == torch.float32 for g in rough[1])
    assert 1e-4 < apart(exact, rough) < 0.1


@pytest.mark.slow
def test_a_compiled_network_answers_as_it_did() -> None:
    assert apart(answers(MLP), answers(MLP, compile="default")) < 1e-4


@pytest.mark.parametrize("bad", [{"precision": "fp8"}, {"compile": "fast"}])
def test_what_there_is_not_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=r"must be one of .*got"):
        prepare(nn.Linear(1, 1), **bad)


def test_the_teachers_training_does_not_wait_either(monkeypatch: pytest.MonkeyPatch) -> None:
    model = matchlib.families["flow"]().model(paired=False)
    field = build_field(MLP, NetworkSpec(DATA.shape, 3), model, DATA.moments(model.coupling))
    assert isinstance(field, Preconditioned)
    trainer = Trainer(MatchingTask(Learner(field), model, DATA, Streams(0, torch.device("cpu")), batch_size=8), TrainerSettings(100))
    trainer._turn()
    with monkeypatch.context() as patch:
        forbid(patch)
        trainer._turn()


# -- data as bytes ---------------------------------------------------------------------------------------------------------


def eight_bit(paired: bool = False) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, size=(40, 3, 4, 4)).astype(np.uint8)
    return Dataset.from_arrays("bytes", x, source=rng.normal(size=x.shape) if paired else None, labels=np.arange(40) % 4)


@pytest.mark.parametrize("paired", [False, True])
def test_data_of_few_numbers_are_kept_as_bytes_and_drawn_as_they_were(paired: bool) -> None:
    whole = eight_bit(paired)
    small = whole.compact(least=0)
    assert small.train.data.dtype == torch.uint8
    assert small.train.source is None or small.train.source.dtype == torch.float32  # noise: too many numbers
    for seed in range(3):
        one, other = (of.draw(16, torch.Generator().manual_seed(seed)) for of in (whole, small))
        for name in ("data", "source", "label"):
            a, b = getattr(one, name), getattr(other, name)
            assert (a is None and b is None) or torch.equal(a, b)
    assert torch.equal(small.compact(least=0).take(slice(5)).data, whole.train.data[:5])
    assert small.shape == whole.shape


def test_other_data_stay_as_they_are() -> None:
    assert DATA.compact(least=0).train.data.dtype == torch.float32
    assert eight_bit().compact().train.data.dtype == torch.float32  # too small to be worth it
    broken = eight_bit()
    broken.train.data[3] = float("nan")
    assert broken.compact(least=0).train.data.dtype == torch.float32


# -- samples that several critic turns share -------------------------------------------------------------------------------


def reusing(reuse: int, micro: int | None = None) -> tuple[Trainer, list[Tensor]]:
    """A training, and what its student generates in it."""
    trainer = trainer_of(micro_batch_size=micro)
    algorithm = trainer.algorithm
    assert isinstance(algorithm, DistillationTask)
    algorithm.critic_steps_per_batch, seen = reuse, []

    def keep(module: nn.Module, given: Any, made: Tensor) -> None:
        seen.append(made.detach().clone())

    algorithm.distillation.student.register_forward_hook(keep)
    return trainer, seen


def test_critic_turns_share_samples_and_students_turns_do_not() -> None:
    trainer, seen = reusing(2)
    for _ in range(6):
        trainer._turn()
    assert len(seen) == 4  # one for two critic turns, one for the student's, twice
    assert not torch.equal(seen[0], seen[1])


def test_a_run_that_shares_samples_goes_on_from_between_two_turns() -> None:
    """What was shared is made again, from the same random numbers and weights."""
    whole, _ = reusing(2)
    for _ in range(5):
        whole._turn()
    parted, seen = reusing(2)
    for _ in range(4):
        parted._turn()
    parted.algorithm._made.clear()  # type: ignore[attr-defined]  # as in a new process
    parted._turn()
    assert len(seen) == 4
    for name, state in whole.states.items():
        assert all(torch.equal(a, b) for a, b in zip(state.weights, parted.states[name].weights, strict=True))


def test_shared_samples_are_the_same_in_parts() -> None:
    (whole, seen), (parts, seen_in_parts) = reusing(2), reusing(2, 5)
    for trainer in (whole, parts):
        for _ in range(2):
            trainer._turn()
    assert [len(x) for x in seen_in_parts] == [5, 5, 2]
    assert torch.allclose(torch.cat(seen_in_parts), seen[0], atol=1e-6)


# -- a teacher in half precision -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [UNET, MLP], ids=["unet", "mlp"])
def test_a_frozen_teacher_in_half_precision_takes_half_and_says_nearly_the_same(network: dict[str, Any]) -> None:
    trainer = trainer_of(network=network)
    algorithm = trainer.algorithm
    assert isinstance(algorithm, DistillationTask)
    of, batch = algorithm.distillation, DATA.take(slice(12))
    teacher = of.teacher
    before = sum(x.nbytes for x in teacher.state_dict().values())
    with torch.no_grad():
        for weight in of.critic.parameters():
            weight.mul_(1.5)
    losses = [of.student_loss(batch, batch, generator=torch.Generator().manual_seed(0))]
    prepare(teacher, precision="bf16", frozen=True)
    assert sum(x.nbytes for x in teacher.state_dict().values()) == before / 2
    losses.append(of.student_loss(batch, batch, generator=torch.Generator().manual_seed(0)))
    assert losses[1].dtype == torch.float32
    assert torch.isclose(*losses, rtol=0.1)
    assert not torch.equal(*losses)
    trainer._turn()
    assert all(w.dtype == torch.float32 for state in trainer.states.values() for w in state.weights)


# -- the critic's two batches, and what a part of a loss is worth ----------------------------------------------------------


def test_generated_and_real_points_may_be_one_batch() -> None:
    of = trainer_of().algorithm.distillation  # type: ignore[attr-defined]
    with torch.no_grad():
        for weight in of.critic.parameters():
            weight.mul_(1.5)
    batch, losses = DATA.take(slice(12)), []
    for of.joint_forward in (True, False):
        losses.append(of.critic_loss(batch, batch, generator=torch.Generator().manual_seed(0)))
    assert torch.allclose(*losses, rtol=1e-5)


def test_a_part_of_a_loss_has_that_part_of_its_gradient() -> None:
    of = trainer_of().algorithm.distillation  # type: ignore[attr-defined]
    weights = list(of.student.parameters())
    with torch.no_grad():
        for weight in of.critic.parameters():
            weight.mul_(1.5)
    batch, found = DATA.take(slice(12)), []
    for share in (1.0, 0.25):
        loss = share * of.student_loss(batch, batch, generator=torch.Generator().manual_seed(0))
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, allow_unused=True) if g is not None]))
    assert found[0].abs().max() > 0
    assert torch.allclose(0.25 * found[0], found[1])
