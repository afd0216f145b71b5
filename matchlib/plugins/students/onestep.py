"""One evaluation: the source is read as a state at one time, and the data prediction there is the sample.

References:
    Zhou et al., "Score identity Distillation", 2024, https://arxiv.org/abs/2404.04057 (start at sigma = 2.5)
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from matchlib.algebra.convert import conversion
from matchlib.algebra.records import Condition
from matchlib.distillation.student import Student
from matchlib.distillation.teacher import Teacher
from matchlib.errors import SettingError
from matchlib.plugins.objectives.data import Data
from matchlib.registries import students

__all__ = ["OneStep"]


@students.register("onestep")
class OneStep(Student):
    """``data = field_data(start(source), t_start)``.

    Args:
        teacher: gives the model and moments.
        field: predicts the data; None copies the teacher, read as a data prediction.
        start: the time of the input, in (times.low, 1].

    Raises:
        SettingError: ``start`` lies outside the model's interval.
        ConversionError: the teacher's prediction does not determine the data, so its weights are no generator; give a field.
    """

    def __init__(self, teacher: Teacher, field: nn.Module | None, *, start: float = 1.0) -> None:
        super().__init__()
        model = teacher.model
        if not model.times.low < start <= 1:
            raise SettingError(f"onestep: start must lie in ({model.times.low}, 1], got {start}")
        predicts = model if field is None else getattr(field, "model", replace(model, objective=Data()))
        field = copy.deepcopy(teacher.field) if field is None else field
        self.field = field.train().requires_grad_(True)
        self.model, self.moments, self.start, self.nfe = model, teacher.moments, start, 1
        self.split = predicts.split
        self.conversion = conversion(predicts, Data())
        self.conversion.check_at(start)
        at = model.interpolant.coefficients(torch.tensor([start], dtype=torch.float64))
        self.weights = [float(k) for k in self.conversion.coefficients(at)]  # constant, since the time is

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        t = torch.full(source.shape[:1], self.start, dtype=source.dtype, device=source.device)
        state = self.model.start(source, t, self.moments, generator=generator)
        prediction = self.field(state, t, condition)
        return self.conversion.combine(self.weights, self.split(prediction), state, condition.source)
