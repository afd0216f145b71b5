"""All Gaussian noise in the state, at unit variance (epsilon-prediction).

References:
    Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.rows import Coefficients, Row
from matchlib.errors import IncompatibleError
from matchlib.registries import objectives

__all__ = ["Epsilon"]


@objectives.register("epsilon")
@dataclass(frozen=True)
class Epsilon(Objective):
    """Row (0, b, c)/sqrt(b^2 + c^2) with an unseen independent Gaussian source, else the noise (0, 0, 1); weight 1."""

    def row(self, model: MatchingModel, at: Coefficients) -> Row:
        if model.gaussian:
            std = torch.as_tensor(at.variance).sqrt()
            return Row(0.0, at.b / std, at.c / std)
        if model.interpolant.noisy:
            return Row(noise=1.0)
        raise IncompatibleError(
            f"{type(model.interpolant).__name__} with {type(model.coupling).__name__} has no epsilon to predict: "
            "the source is not an unseen independent Gaussian, and c is zero"
        )
