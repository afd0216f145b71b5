"""The Gaussian world: where data, source and noise are jointly Gaussian, every prediction of every model is exact.

Given latents with mean mu and covariance Sigma, a row R and the rows K that a field sees,
``E[R | K = k] = R mu + R Sigma K' (K Sigma K')^-1 (k - K mu)``. One formula serves every family, because every prediction is a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.records import Batch, Condition
from matchlib.algebra.rows import expand

__all__ = ["GaussianField", "GaussianLaw"]


@dataclass(frozen=True)
class GaussianLaw:
    """A law of (data, source), the same and independent for every entry of an event.

    Args:
        mean: of the data; the source has mean 0.
        std: of the data, > 0.
        source_std: of the source, > 0.
        correlation: of data and source, in (-1, 1).
    """

    mean: float = 0.0
    std: float = 1.0
    source_std: float = 1.0
    correlation: float = 0.0

    def covariance(self) -> Tensor:
        """Covariance of (data, source, noise), shape (3, 3)."""
        cross = self.correlation * self.std * self.source_std
        rows = [[self.std**2, cross, 0.0], [cross, self.source_std**2, 0.0], [0.0, 0.0, 1.0]]
        return torch.tensor(rows, dtype=torch.float64)

    def sample(self, n: int, shape: tuple[int, ...], generator: torch.Generator) -> Batch:
        """Draws ``n`` pairs, float64."""
        data, other = torch.randn(2, n, *shape, dtype=torch.float64, generator=generator)
        source = self.source_std * (self.correlation * data + (1 - self.correlation**2) ** 0.5 * other)
        return Batch(self.mean + self.std * data, source)


class GaussianField(nn.Module):
    """The exact field of a model under a Gaussian law.

    Args:
        model: its coupling must join data and source as the law does.
        law: of data and source.
    """

    def __init__(self, model: MatchingModel, law: GaussianLaw) -> None:
        super().__init__()
        self.model, self.law = model, law

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns E[row | what the field sees], shape ``(b, *event)``."""
        at = self.model.interpolant.coefficients(time.double())
        known = torch.stack([row.stack(at.time) for row in self.model.known(at)], 1)
        row = self.model.row(at).stack(at.time)[:, None]
        sigma = self.law.covariance().to(state.device)
        mean = torch.tensor([self.law.mean, 0.0, 0.0], dtype=torch.float64, device=state.device)
        gain = torch.linalg.solve(known @ sigma @ known.mT, (row @ sigma @ known.mT).mT).mT[:, 0]
        seen = [state] if condition.source is None else [state, condition.source]
        result = expand(row[:, 0] @ mean, state).expand_as(state)
        for i, value in enumerate(seen):
            result = result + expand(gain[:, i], state) * (value - expand(known[:, i] @ mean, state))
        return result
