"""Training of a field by matching: how teachers are made."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from matchlib.algebra.model import Field, MatchingModel
from matchlib.algebra.records import Batch, forget
from matchlib.data import Dataset
from matchlib.errors import SettingError
from matchlib.streams import Streams
from matchlib.training.algorithm import Algorithm, Learner

__all__ = ["Matching"]


class Matching(Algorithm):
    """Minimises ``model.loss`` over one field.

    Args:
        learner: of the field.
        model: what it is trained for.
        dataset: on the streams' device.
        streams: of the run.
        batch: samples a step.
        label_dropout: share of the samples whose label the field is not told, in [0, 1): what classifier-free guidance needs (Ho,
            Salimans, "Classifier-Free Diffusion Guidance", 2022, https://arxiv.org/abs/2207.12598).
        field: what to call in place of the learner's module, where several processes train it.
    """

    def __init__(
        self,
        learner: Learner,
        model: MatchingModel,
        dataset: Dataset,
        streams: Streams,
        *,
        batch: int,
        label_dropout: float = 0.0,
        field: Field | None = None,
    ) -> None:
        if not 0 <= label_dropout < 1:
            raise SettingError(f"label_dropout must lie in [0, 1), got {label_dropout}")
        self.label_dropout = label_dropout
        self.learners = {"field": learner}
        self.field: Field = field or learner.module
        self.model, self.dataset, self.streams = model, dataset, streams
        self.size, self.together = batch, model.coupling.together(batch)

    def learner(self, step: int) -> str:
        return "field"

    def _draw(self, step: int, rows: int) -> Batch:
        batch = self.dataset.draw(rows, self.streams("real", step))
        if batch.label is None or not self.label_dropout:
            return batch
        generator = self.streams("dropout", step)
        missing = torch.rand(len(batch.label), generator=generator, device=batch.label.device) < self.label_dropout
        return replace(batch, label=forget(batch.label, missing))

    def loss(self, step: int, rows: int) -> Tensor:
        return self.model.loss(self.field, self._draw(step, rows), generator=self.streams("point", step)).mean()
