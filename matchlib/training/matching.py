"""Training of a field by matching: how teachers are made."""

from __future__ import annotations

from torch import nn

from matchlib.algebra.model import MatchingModel
from matchlib.data import Dataset
from matchlib.streams import Streams
from matchlib.training.algorithm import Algorithm, Learner, Turn

__all__ = ["Matching"]


class Matching(Algorithm):
    """Minimises ``model.loss`` over one field.

    Args:
        field: the learner's module.
        model: what it is trained for.
        dataset: on the streams' device.
        streams: of the run.
        batch: samples a step.
    """

    def __init__(self, learner: Learner, model: MatchingModel, dataset: Dataset, streams: Streams, *, batch: int) -> None:
        self.learners = {"field": learner}
        self.field: nn.Module = learner.module
        self.model, self.dataset, self.streams, self.batch = model, dataset, streams, batch

    def turn(self, step: int) -> Turn:
        batch = self.dataset.draw(self.batch, self.streams("real", step))
        loss = self.model.loss(self.field, batch, generator=self.streams("point", step))
        return Turn("field", loss.mean())
