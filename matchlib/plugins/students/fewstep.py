"""A few evaluations: predict the data, step back to a smaller time, predict again.

References:
    Song, Dhariwal, Chen, Sutskever, "Consistency Models", 2023, https://arxiv.org/abs/2303.01469 (multistep sampling)
    Yin et al., "Improved Distribution Matching Distillation for Fast Image Synthesis", 2024, https://arxiv.org/abs/2405.14867
    (training on the states that the generator itself makes)
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from matchlib.algebra.records import Condition
from matchlib.distillation.teacher import Teacher
from matchlib.errors import SettingError
from matchlib.plugins.students.onestep import OneStep
from matchlib.registries import students

__all__ = ["FewStep"]

VARIANTS = ("chain", "one")


@students.register("fewstep")
class FewStep(OneStep):
    """``data_k = field_data(state_k, t_k)``, ``state_(k-1) ~ transition(state_k, data_k)``, from t_K = start; data_1 is the sample.

    In training the states come from running the student itself, so that training and use see the same ones.

    Args:
        teacher: gives the model and moments.
        field: predicts the data; None copies the teacher, read as a data prediction.
        start: the largest time, in (times.low, 1].
        steps: number K of evaluations, >= 1.
        variant: what is trained: the whole ``chain``, with a graph through all of it; or ``one`` evaluation, drawn uniformly for each
            sample, whose prediction is the sample. The latter is cheaper, but compares the mixture of all evaluations with the data.

    Attributes:
        times: the grid, from t_K to t_1, shape ``(steps,)``; it is saved with the weights and used on load.

    Raises:
        SettingError: a setting lies outside its range.
        ConversionError: as for ``onestep``.
    """

    def __init__(self, teacher: Teacher, field: nn.Module | None, *, start: float = 1.0, steps: int = 4, variant: str = "chain") -> None:
        super().__init__(teacher, field, start=start)
        if not isinstance(steps, int) or steps < 1:
            raise SettingError(f"fewstep: steps must be a whole number of at least 1, got {steps!r}")
        if variant not in VARIANTS:
            raise SettingError(f"fewstep: variant must be one of {', '.join(VARIANTS)}, got {variant!r}")
        self.nfe, self.variant = steps, variant
        low = self.model.times.low
        times = low + (start - low) * torch.arange(steps, 0, -1, dtype=torch.float64) / steps
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
        state = self.model.start(source, times[0], self.moments, generator=generator)
        for now, then in pairwise(times):
            yield state, now
            data = self._predict(state, now, condition)
            known = self.model.coupling.partner(data, source)
            state = self.model.interpolant.transition(state, data, now, then, source=known, generator=generator)
        yield state, times[-1]

    def _predict(self, state: Tensor, t: Tensor, condition: Condition) -> Tensor:
        prediction = self.field(state, t, condition)
        weights = self.conversion.coefficients(self.model.interpolant.coefficients(t))
        return self.conversion.combine(weights, self.split(prediction), state, condition.source)
