"""What memory a run will need, by taking its steps with tensors that have shapes but no numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor  # public are meta tensors alone, whose random numbers take no generator

from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.errors import IncompatibleError
from matchlib.runs.build import build
from matchlib.runs.method import method_of
from matchlib.runs.run import prepared
from matchlib.runs.settings import RunSettings
from matchlib.training.memory import Live, bytes_of
from matchlib.training.random import Streams
from matchlib.training.settings import EngineSettings, TrainerSettings
from matchlib.training.trainer import Trainer

__all__ = ["MOST", "Plan", "plan"]


NUMBERS = fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException  # of code that reads numbers of its tensors
MOST = 1 << 16  # samples, up to which the largest batch is looked for


@dataclass(frozen=True)
class Plan:
    """Expected memory, in bytes.

    Args:
        parts: what stays between steps, by name.
        batch: samples that the settings work on at once.
        steps: returns the most that steps add with so many samples at once.
    """

    parts: dict[str, int]
    batch: int
    steps: Callable[[int], int]

    def peak(self, batch: int | None = None) -> int:
        """Returns the most memory that is taken at once."""
        return sum(self.parts.values()) + self.steps(batch or self.batch)

    def largest(self, memory: int, most: int = MOST) -> int:
        """Returns how many samples can be worked on at once in so much memory, to 2% and up to ``most``; 0 if not even one."""
        fits, too_many, size = 0, most + 1, self.batch
        while too_many - fits > max(1, fits // 64):
            if self.peak(size) <= memory:
                fits = size
            else:
                too_many = size
            slope = (self.peak(2 * size) - self.peak(size)) / size  # nearly a straight line: the size that it predicts is tried next
            predicted = size + (memory - self.peak(size)) / max(slope, 1.0)
            size = min(max(int(0.995 * predicted), fits + 1 + fits // 100), max(too_many - 1 - fits // 100, fits + 1), most)
        return fits


def plan(settings: RunSettings, dataset: Dataset | None = None, *, trust: bool = False) -> Plan:
    """Returns the plan of the student's training; the data are read, and nothing is trained or written.

    Several processes are not counted: it is the memory of one that works on ``micro_batch_size`` samples, or else the batch, and holds all
    weights. Networks are planned as they are, not as compilation may change them; monitor and evaluation are left out.

    Args:
        settings: of a distillation.
        dataset: in place of the one that the settings name.
        trust: whether Python code that the settings name may be run.

    Raises:
        MatchlibError: the settings cannot work.
    """
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn from the global generator
        components = build(settings.model_copy(update={"device": "cpu"}), data=dataset, trust=trust)
    chosen, t, e = components.distillation, settings.trainer, settings.trainer.engine
    assert chosen is not None, "a plan is of a distillation"
    chosen.adapt()
    modules = copy.deepcopy(components.teacher), chosen.student, chosen.critic
    shapes = fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)
    for module in modules:
        _without_numbers(shapes, prepared(module, e.model_copy(update={"compile": None}), frozen=module is modules[0]))
    of = Distillation(*modules, chosen.loss, chosen.times, two_pass=e.split, joint_forward=e.joint_forward)
    kept = replace(components.training_data.compact(), stored=None)  # shapes are asked for, and no samples

    def trained(size: int) -> tuple[int, Trainer]:
        """Returns the most that some steps with so many samples at once take besides data and networks, and their trainer."""
        parts = 1 if e.micro_batch_size is None else 2  # the second meets the gradients of the first
        streams = Streams(0, torch.device("cpu"))
        task = method_of(t, of, chosen.learners(t), kept, streams, critic_steps=chosen.critic_steps, batch_size=parts * size)
        with shapes, _shapes_alone(of), Live() as live:
            trainer = Trainer(task, TrainerSettings(steps=1, engine=EngineSettings(micro_batch_size=size)))
            for _ in range(task.cycle + 2):
                trainer.step()
        for state in trainer.states.values():
            state.clear()
            state.learner.module.requires_grad_(True)
        return live.peak, trainer

    batch = e.micro_batch_size or t.batch_size
    trainer = trained(1)[1]
    data = [x for x in (kept.train.data, kept.train.source, kept.train.label, *kept.tables) if x is not None]
    parts, added = {"data": bytes_of(data), "teacher": _bytes(modules[0].state_dict().values())}, 0
    for name, state in trainer.states.items():
        averages = _bytes(x for average in state.ema.averages for x in average)
        slots = _bytes(x for moment in state.moments.values() for x in moment)
        added += averages + slots
        parts |= {name: _bytes(state.learner.module.state_dict().values()), f"{name}'s optimiser": slots}
        parts |= {f"{name}'s averages": averages} if averages else {}
    return Plan(parts, batch, cache(lambda size: trained(size)[0] - added))


@contextmanager
def _shapes_alone(of: Distillation) -> Iterator[None]:
    """A context in which a model or field that reads numbers is refused."""
    try:
        yield
    except NUMBERS as error:
        raise IncompatibleError(
            f"no plan of {type(of.model.coupling).__name__} and {type(of.teacher.field).__name__}: they read numbers, and a plan has "
            f"shapes alone ({error}); run it with --set trainer.steps=2 and look at the memory"
        ) from None


def _without_numbers(shapes: fake_tensor.FakeTensorMode, module: nn.Module) -> None:
    """Replaces a module's tensors by ones that have a shape and no numbers."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        module._apply(shapes.from_tensor)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({id(x): x.numel() * x.element_size() for x in tensors}.values())
