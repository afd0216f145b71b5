"""Students: generators of one evaluation, or a few."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from matchlib.algebra.convert import conversion
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.records import Condition
from matchlib.distillation.student import Student
from matchlib.errors import SettingError
from matchlib.fields.teacher import Teacher
from matchlib.plugins.objectives import Data
from matchlib.registry import students

__all__ = ["FewStep", "OneStep"]


@students.register("onestep")
class OneStep(Student):
    """``data = field_data(start(source), t_start)``.

    Args:
        teacher: gives the model and moments.
        field: predicts the data; None copies the teacher, read as a data prediction.
        t_start: the time of the input, in (times.t_min, times.t_max]; None for the last.

    Raises:
        SettingError: ``t_start`` is not in (times.t_min, times.t_max].
        ConversionError: the teacher's prediction does not determine the data, so its weights are no generator; give a field.

    Attributes:
        start: what the source goes through first: nothing, or a ``GaussianStart``.

    References:
        Zhou et al., "Score identity Distillation", 2024, https://arxiv.org/abs/2404.04057 (start at sigma = 2.5)
    """

    def __init__(self, teacher: Teacher, field: nn.Module | None, *, t_start: float | None = None) -> None:
        super().__init__()
        model = teacher.model
        t_start = model.times.t_max if t_start is None else t_start
        if not model.times.t_min < t_start <= model.times.t_max:
            raise SettingError(
                f"onestep: t_start must lie in ({model.times.t_min:g}, {model.times.t_max:g}], where the teacher was trained, got {t_start}"
            )
        stated = getattr(field, "model", None)
        predicts = stated if isinstance(stated, MatchingModel) else model if field is None else replace(model, objective=Data())
        field = copy.deepcopy(teacher.field) if field is None else field
        self.field = field.train().requires_grad_(True)
        self.start: nn.Module = nn.Identity()
        self.model, self.moments, self.t_start, self.nfe = model, teacher.moments, t_start, 1
        self.split = predicts.split
        self.conversion = conversion(predicts, Data())
        self.conversion.check_at(t_start, "student.t_start=0.99")
        at = model.interpolant.coefficients(torch.tensor([t_start], dtype=torch.float64))
        self.weights = [float(k) for k in self.conversion.coefficients(at)]  # constant, since the time is

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        t = torch.full(source.shape[:1], self.t_start, dtype=source.dtype, device=source.device)
        state = self._start(source, t, generator)
        prediction = self.field(state, t, condition)
        return self.conversion.combine(self.weights, self.split(prediction, state), state, condition.source)

    def _start(self, source: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        """The state at the start."""
        return self.model.start(self.start(source), t, self.moments, generator=generator)


VARIANTS = ("chain", "one")


@students.register("fewstep")
class FewStep(OneStep):
    """``data_k = field_data(state_k, t_k)``, ``state_(k-1) ~ transition(state_k, data_k)``, from t_K = t_start; data_1 is the sample.

    In training the states come from running the student itself, so that training and use see the same ones.

    Args:
        teacher: gives the model and moments.
        field: predicts the data; None copies the teacher, read as a data prediction.
        t_start: the largest time, in (times.t_min, times.t_max]; None for the last.
        steps: number K of evaluations, >= 1.
        variant: what is trained: the whole ``chain``, with a graph through all of it; or ``one`` evaluation, drawn uniformly for each
            sample, whose prediction is the sample. The latter is cheaper, but compares the mixture of all evaluations with the data.

    Attributes:
        times: the grid, from t_K to t_1, shape ``(steps,)``; it is saved with the weights and used on load.

    Raises:
        SettingError: a setting lies outside its range.
        ConversionError: as for ``onestep``.

    References:
        Song, Dhariwal, Chen, Sutskever, "Consistency Models", 2023, https://arxiv.org/abs/2303.01469 (multistep sampling)
        Yin et al., "Improved Distribution Matching Distillation for Fast Image Synthesis", 2024, https://arxiv.org/abs/2405.14867
        (training on the states that the generator itself makes)
    """

    def __init__(
        self, teacher: Teacher, field: nn.Module | None, *, t_start: float | None = None, steps: int = 4, variant: str = "chain"
    ) -> None:
        super().__init__(teacher, field, t_start=t_start)
        if not isinstance(steps, int) or steps < 1:
            raise SettingError(f"fewstep: steps must be a whole number of at least 1, got {steps!r}")
        if variant not in VARIANTS:
            raise SettingError(f"fewstep: variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.nfe, self.variant = steps, variant
        low = self.model.times.t_min
        times = low + (self.t_start - low) * torch.arange(steps, 0, -1, dtype=torch.float64) / steps
        self.times: Tensor
        self.register_buffer("times", times)

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        if self.training and self.variant == "one":
            return self._one(source, condition, generator)
        *_, (state, t) = self._walk(source, condition, generator)
        return self._predict(state, t, condition)

    def _one(self, source: Tensor, condition: Condition, generator: torch.Generator) -> Tensor:
        """The prediction at one time of the grid for each sample, from a state that the student made without a graph."""
        with torch.no_grad():
            states = torch.stack([state for state, _ in self._walk(source, condition, generator)])
        every = torch.arange(len(source), device=source.device)
        k = torch.randint(self.nfe, every.shape, generator=generator, device=source.device)
        return self._predict(states[k, every], self.times[k].to(source.dtype), condition)

    def _walk(self, source: Tensor, condition: Condition, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (state, time) for each time of the grid; a step's prediction is made when the next state is asked for."""
        times = [t.to(source.dtype).expand(source.shape[:1]) for t in self.times]
        state = self._start(source, times[0], generator)
        for now, then in pairwise(times):
            yield state, now
            data = self._predict(state, now, condition)
            known = source if self.model.sees_source else self.model.coupling.partner(data, source)
            state = self.model.interpolant.transition(state, data, now, then, source=known, generator=generator)
        yield state, times[-1]

    def _predict(self, state: Tensor, t: Tensor, condition: Condition) -> Tensor:
        prediction = self.field(state, t, condition)
        weights = self.conversion.coefficients(self.model.interpolant.coefficients(t))
        return self.conversion.combine(weights, self.split(prediction, state), state, condition.source)
