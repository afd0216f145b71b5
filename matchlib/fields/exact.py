"""The Gaussian world: where data and source are a Gaussian mixture, every prediction of every model is exact.

Given latents with mean mu and covariance Sigma in each component, a row R and the rows K that a field sees,
``E[R | K = k] = sum_i r_i(k) (R mu_i + R Sigma_i K' (K Sigma_i K')^-1 (k - K mu_i))``, with r_i(k) the posterior share of component i. One
formula serves every family, because every prediction is a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.records import Batch, Condition
from matchlib.algebra.rows import join_heads

__all__ = ["BestCritic", "GaussianField", "Mixture", "seen_by"]

END = 1e-5


@dataclass(frozen=True, eq=False)
class Mixture:
    """A joint distribution of (data, source): a Gaussian mixture for each class, both latents flattened to d numbers.

    Args:
        weights: share of each component, shape ``(classes, k)``, at least 0, sum 1 over all. One class means data without labels.
        mean: of data and source, shape ``(classes, k, 2, d)``.
        covariance: shape ``(classes, k, 2, d, 2, d)``, positive definite as a ``2d x 2d`` matrix.
    """

    weights: Tensor
    mean: Tensor
    covariance: Tensor

    @classmethod
    def normal(
        cls,
        mean: float | Tensor = 0.0,
        std: float | Tensor = 1.0,
        *,
        source_mean: float = 0.0,
        source_std: float = 1.0,
        correlation: float = 0.0,
        dimension: int = 1,
    ) -> Mixture:
        """Returns one Gaussian, the same and independent for each of ``dimension`` entries; mean and std may carry a gradient."""
        m, s = (torch.as_tensor(x, dtype=torch.float64) for x in (mean, std))
        cross = correlation * s * source_std
        pair = torch.stack([s * s, cross, cross, torch.full_like(s, source_std**2)]).reshape(2, 2)
        covariance = torch.einsum("ij,st->isjt", pair, torch.eye(dimension, dtype=torch.float64))
        means = torch.stack([m, torch.full_like(m, source_mean)])[:, None].expand(2, dimension)
        return cls(torch.ones(1, 1, dtype=torch.float64), means[None, None], covariance[None, None])

    @property
    def classes(self) -> int:
        return self.weights.shape[0]

    @property
    def dimension(self) -> int:
        """The number of entries of an event."""
        return self.mean.shape[-1]

    def latents(self, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns log shares ``(b, k)``, mean ``(b, k, 3, d)`` and covariance ``(b, k, 3, d, 3, d)`` of (data, source, noise).

        ``b`` is the number of labels, or 1 without: then the components of every class count, by their shares.
        """
        size, noise = self.dimension, torch.zeros_like(self.mean[:, :, :1])
        covariance = self.covariance.new_zeros(*self.weights.shape, 3, size, 3, size)
        covariance[:, :, :2, :, :2] = self.covariance
        covariance[:, :, 2, :, 2] = torch.eye(size, dtype=covariance.dtype, device=covariance.device)
        parts = (self.weights.log(), torch.cat([self.mean, noise], 2), covariance)
        if label is None or self.classes == 1:
            logs, means, blocks = (x.flatten(0, 1)[None] for x in parts)
        else:
            logs, means, blocks = (x[label] for x in parts)
        return logs - logs.logsumexp(-1, keepdim=True), means, blocks

    def sample(self, n: int, generator: torch.Generator, shape: tuple[int, ...] | None = None) -> Batch:
        """Draws ``n`` pairs with their labels (None for one class), float64, events of ``shape`` (default ``(d,)``)."""
        index = torch.multinomial(self.weights.flatten(), n, replacement=True, generator=generator)
        size = 2 * self.dimension
        root = torch.linalg.cholesky(self.covariance.reshape(-1, size, size))
        z = torch.randn(n, size, 1, dtype=torch.float64, generator=generator)
        both = self.mean.reshape(-1, size)[index] + (root[index] @ z)[:, :, 0]
        data, source = both.reshape(n, 2, *(shape or (self.dimension,))).unbind(1)
        return Batch(data, source, index // self.weights.shape[1] if self.classes > 1 else None)

    def coupled(self, coupling: Coupling) -> Mixture:
        """Returns the distribution after a coupling: pairs kept, or an independent source, standard normal where the coupling says so."""
        if coupling.paired:
            return self
        mean, covariance = self.mean.clone(), self.covariance.clone()
        covariance[:, :, 0, :, 1], covariance[:, :, 1, :, 0] = 0.0, 0.0
        if coupling.gaussian_source:
            mean[:, :, 1] = 0.0
            covariance[:, :, 1, :, 1] = torch.eye(self.dimension, dtype=covariance.dtype)
        return Mixture(self.weights, mean, covariance)

    def shifted(self, by: float) -> Mixture:
        """Returns the distribution with ``by`` added to every entry of the data."""
        return Mixture(self.weights, torch.stack([self.mean[:, :, 0] + by, self.mean[:, :, 1]], 2), self.covariance)

    def blend(self, other: Mixture, share: float) -> Mixture:
        """Returns the distribution that draws from ``other`` with probability ``share``, and from this one otherwise."""
        weights = torch.cat([(1 - share) * self.weights, share * other.weights], 1)
        return Mixture(weights, torch.cat([self.mean, other.mean], 1), torch.cat([self.covariance, other.covariance], 1))

    def moments(self) -> Moments:
        """Returns the second moments of an entry, averaged over entries."""
        central = torch.diagonal(self.covariance, dim1=3, dim2=5).mean(-1)
        second = central + torch.einsum("ckis,ckjs->ckij", self.mean, self.mean) / self.dimension
        table = torch.einsum("ck,ckij->ij", self.weights, second)
        return Moments(float(table[0, 0]), float(table[1, 1]), float(table[0, 1]))

    def log_density(self, known: Tensor, values: Tensor, label: Tensor | None = None) -> Tensor:
        """Returns the logarithm of the density of what is seen, shape ``(b,)``; arguments as in ``posterior``."""
        return self._given(known, values, label)[0].logsumexp(-1)

    def posterior(self, known: Tensor, values: Tensor, label: Tensor | None = None) -> Tensor:
        """Returns E[(data, source, noise) | what is seen], shape ``(b, 3, d)``.

        Args:
            known: rows of the latents, shape ``(b, m, 3)``.
            values: what they were seen to be, shape ``(b, m, d)``.
            label: classes, shape ``(b,)``, where the field sees them.
        """
        shares, each = self._given(known, values, label)
        return torch.einsum("bk,bkis->bis", shares.softmax(-1), each)

    def _given(self, known: Tensor, values: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns (log of share times density, posterior mean of the latents) of each component: ``(b, k)``, ``(b, k, 3, d)``.

        A label of -1 is missing: then the components of every class count.
        """
        if label is not None and self.classes > 1 and bool((missing := label < 0).any()):
            shares, each = self._given(known, values, label.clamp_min(0))
            all_shares, all_each = self._given(known, values, None)
            more = all_shares.shape[1] - shares.shape[1]
            shares, each = nn.functional.pad(shares, (0, more), value=-math.inf), nn.functional.pad(each, (0, 0, 0, 0, 0, more))
            return torch.where(missing[:, None], all_shares, shares), torch.where(missing[:, None, None, None], all_each, each)
        whole = label is not None and self.classes > 1 and known.shape[0] == 1  # one time: each class is factorised once, then looked up
        logs, mean, covariance = self.latents(torch.arange(self.classes, device=known.device) if whole else label)
        joint = torch.einsum("bkisjt,bnj->bkisnt", covariance, known).flatten(4)
        seen = torch.einsum("bmi,bkisn->bkmsn", known, joint).flatten(2, 3)
        expected = torch.einsum("bmi,bkis->bkms", known, mean).flatten(2)
        root = torch.linalg.cholesky(seen)
        inverse = torch.cholesky_inverse(root)
        log_volume = torch.diagonal(root, dim1=-2, dim2=-1).log().sum(-1) + 0.5 * seen.shape[-1] * math.log(2 * math.pi)
        if whole:
            logs, mean, joint, expected, inverse, log_volume = (x[label] for x in (logs, mean, joint, expected, inverse, log_volume))
        off = values.flatten(1)[:, None] - expected
        solved = torch.einsum("bkmn,bkn->bkm", inverse, off)
        return logs - 0.5 * (off * solved).sum(-1) - log_volume, mean + torch.einsum("bkisn,bkn->bkis", joint, solved)


def seen_by(model: MatchingModel, state: Tensor, time: Tensor, source: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns (rows, values) of what a model's field sees, ``(b, m, 3)`` and ``(b, m, d)``, float64; rows of one time once."""
    at = model.interpolant.coefficients(_once(model, time))
    rows = torch.stack([row.stack(at.time) for row in model.known(at)], 1)
    values = [state] if source is None else [state, source]
    return rows, torch.stack([x.flatten(1).double() for x in values], 1)


def _once(model: MatchingModel, time: Tensor) -> Tensor:
    """The times in float64; a single one if they are one number expanded, as a sampler's are, so that nothing is computed twice.

    A field that sees the source sees it twice at t = 1, where the state is the source: there the limit is taken, to ``END``.
    """
    t = (time[:1] if time.stride() == (0,) else time).double()
    return t.clamp(max=1 - END) if model.sees_source else t


class GaussianField(nn.Module):
    """The exact field of a model under a distribution.

    Args:
        model: its row is predicted.
        distribution: of data and source, as the model's coupling joins them; its dimension is the number of entries of an event.
    """

    def __init__(self, model: MatchingModel, distribution: Mixture) -> None:
        super().__init__()
        self.model = model
        self.weights: Tensor
        self.mean: Tensor
        self.covariance: Tensor
        for name in ("weights", "mean", "covariance"):
            self.register_buffer(name, getattr(distribution, name))

    @property
    def distribution(self) -> Mixture:
        return Mixture(self.weights, self.mean, self.covariance)

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns E[row | what the field sees], shape ``(b, *event)``, or ``(b, heads, *event)``."""
        latents = self.distribution.posterior(*seen_by(self.model, state, time, condition.source), condition.label)
        at = self.model.interpolant.coefficients(_once(self.model, time))
        rows = [row.stack(at.time) for row in self.model.rows(at)]
        return join_heads([torch.einsum("bi,bis->bs", row, latents).to(state.dtype).reshape(state.shape) for row in rows])


class BestCritic(nn.Module):
    """The critic that maximises a bilinear loss: ``f~ + N/m``, ``m = g q + g' p``, ``N = q (b f_q - a f~) + p (b' f_p - a' f~)``.

    p and q are the densities of what the field sees under the real and the generated distribution, f_p and f_q their exact fields.
    (g, a, b) are the loss's weights of |d|^2, teacher and target on generated points, and (g', a', b') those on real points. For RealUID
    they are (gamma, alpha, beta) and one minus each.

    Args:
        model: its row is predicted.
        real, made: the distributions p and q.
        teacher: f~, a field that predicts the same row.
        generated, on_real: (g, a, b) and (g', a', b').
    """

    def __init__(
        self,
        model: MatchingModel,
        real: Mixture,
        made: Mixture,
        teacher: nn.Module,
        generated: tuple[float, float, float],
        on_real: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.model, self.teacher = model, teacher
        self.at_real, self.at_made = GaussianField(model, real), GaussianField(model, made)
        self.generated, self.on_real = generated, on_real

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns the critic's prediction, shape ``(b, *event)``."""
        seen = seen_by(self.model, state, time, condition.source)
        distributions = ((self.at_made, self.generated), (self.at_real, self.on_real))
        logs = torch.stack(
            [field.distribution.log_density(*seen, condition.label) + (0.0 if any(w) else -math.inf) for field, w in distributions]
        )
        point = (state, time, condition)
        f, f_q, f_p = self.teacher(*point), self.at_made(*point), self.at_real(*point)
        q, p = (logs - logs.amax(0)).exp().reshape(2, -1, *(1,) * (f.ndim - 1))  # the ratio needs no common factor
        (g, a, b), (g1, a1, b1) = self.generated, self.on_real
        return f + (q * (b * f_q - a * f) + p * (b1 * f_p - a1 * f)) / (g * q + g1 * p)
