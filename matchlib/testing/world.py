"""Distillation in the Gaussian world: a library loss integrated exactly, and a student whose distribution is known.

In one dimension an expectation over what a field sees is an integral over a line (or a plane, if the field sees the source), and the
trapezoidal rule on smooth decaying functions converges faster than any power of the step. The losses integrated here are the library's
own objects; since they are linear in the target, the target's conditional mean takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.interpolant import draw_like
from matchlib.algebra.model import MatchingModel, square_norm
from matchlib.algebra.records import Condition
from matchlib.algebra.rows import expand
from matchlib.distillation.loss import BilinearLoss
from matchlib.distillation.predictions import Predictions
from matchlib.distillation.student import Student
from matchlib.fields.exact import BestCritic, GaussianField, Mixture, seen_by
from matchlib.plugins.couplings import Independent

__all__ = ["AffineStudent", "World", "affine_divergence", "least", "weights_of"]

NODES = {1: 1601, 2: 161}  # a side of the grid, by the number of rows that the field sees
REACH = 9.0  # standard deviations of each component that the grid covers


def weights_of(loss: BilinearLoss) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Returns a loss's (square, teacher, target) weights for the critic, on generated and on real points."""
    return tuple((w.square, w.teacher, w.target) for w in (loss.generated, loss.real))  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class World:
    """Real and generated distribution, and a teacher, at one time.

    Args:
        model: in the space in which losses are taken; events are single numbers.
        real, made: p and q, distributions of dimension 1 as the model's coupling joins them; those of ``made`` may carry a gradient.
        time: inside the model's interval.
        teacher: predicts the model's row; None for the exact field of ``real``.
        label: the class that is looked at; None for all together.
        side: nodes along each axis of the grid; None for many.
    """

    model: MatchingModel
    real: Mixture
    made: Mixture
    time: float
    teacher: nn.Module | None = None
    label: int | None = None
    side: int | None = None

    @cached_property
    def point(self) -> tuple[Tensor, Tensor, Condition]:
        """The nodes: states ``(n, 1)``, times ``(n,)`` and what else the field sees there."""
        return self._grid[:3]

    @cached_property
    def _grid(self) -> tuple[Tensor, Tensor, Condition, float]:
        at = self.model.interpolant.coefficients(torch.tensor([self.time], dtype=torch.float64))
        known = torch.stack([row.stack(at.time)[0] for row in self.model.known(at)])
        means, covariances = [], []
        with torch.no_grad():
            for distribution in (self.real, self.made):
                _, mean, covariance = distribution.latents(None if self.label is None else torch.tensor([self.label]))
                means.append(mean[0, :, :, 0] @ known.T)
                covariances.append(known @ covariance[0, :, :, 0, :, 0] @ known.T)
            mean, covariance = torch.cat(means), torch.cat(covariances)
            root = torch.linalg.cholesky(covariance.mean(0))
            flat = torch.linalg.solve_triangular(root, mean.T, upper=False)
            inner = torch.linalg.solve_triangular(root, torch.linalg.cholesky(covariance), upper=False)
            spread = REACH * inner.square().sum(-1).sqrt().T
            low, high = (flat - spread).amin(1), (flat + spread).amax(1)
        side = self.side or NODES[len(known)]
        axes = [torch.linspace(float(a), float(b), side, dtype=torch.float64) for a, b in zip(low, high, strict=True)]
        values = torch.cartesian_prod(*axes).reshape(-1, len(axes)) @ root.T
        volume = float(((high - low) / (side - 1)).prod() * torch.diagonal(root).prod())
        n = len(values)
        label = None if self.label is None else torch.full((n,), self.label)
        source = values[:, 1:] if self.model.sees_source else None
        return values[:, :1], torch.tensor([self.time], dtype=torch.float64).expand(n), Condition(label, source), volume

    def measure(self, distribution: Mixture) -> Tensor:
        """Returns the distribution's density of what is seen times the volume of a cell: its sum is one."""
        state, time, condition = self.point
        seen = seen_by(self.model, state, time, condition.source)
        return distribution.log_density(*seen, condition.label).exp() * self._grid[3]

    @cached_property
    def q(self) -> Tensor:
        return self.measure(self.made)

    @cached_property
    def p(self) -> Tensor:
        return self.measure(self.real)

    def exact(self, distribution: Mixture) -> Tensor:
        """Returns E[row | what is seen] at the nodes, ``(n, 1)``."""
        return GaussianField(self.model, distribution)(*self.point)

    @cached_property
    def teacher_prediction(self) -> Tensor:
        """The teacher at the nodes."""
        return self.exact(self.real) if self.teacher is None else self.teacher(*self.point)

    @cached_property
    def weight(self) -> Tensor:
        """The model's time weight, a number."""
        at = self.model.interpolant.coefficients(torch.tensor([self.time], dtype=torch.float64))
        return torch.as_tensor(self.model.weight(at), dtype=torch.float64).reshape(())

    def best(self, loss: BilinearLoss) -> BestCritic:
        """Returns the loss's optimal critic as a field."""
        teacher = GaussianField(self.model, self.real) if self.teacher is None else self.teacher
        return BestCritic(self.model, self.real, self.made, teacher, *weights_of(loss))

    def predictions(self, critic: Tensor, distribution: Mixture) -> Predictions:
        """Returns the predictions at the nodes, the target replaced by its conditional mean under ``distribution``."""
        state, time, condition = self.point
        return Predictions(critic, self.teacher_prediction, self.exact(distribution), self.weight, state, time, condition)

    def critic_gain(self, loss: BilinearLoss, critic: Tensor) -> Tensor:
        """Returns what the critic maximises, E_q and E_p together, for its values at the nodes; a number."""
        generated = (self.q * loss.critic_loss(self.predictions(critic, self.made), None)).sum()
        if not loss.uses_real:
            return -generated
        still = self.predictions(self.teacher_prediction, self.made)  # where the critic is the teacher, the generated term vanishes
        real = loss.critic_loss(still, self.predictions(critic, self.real)) - loss.critic_loss(still, None)
        return -(generated + (self.p * real).sum())

    def student_loss(self, loss: BilinearLoss, critic: Tensor) -> Tensor:
        """Returns what the student minimises, for a critic's values at the nodes; a number."""
        return (self.q * loss.student_loss(self.predictions(critic, self.made))).sum()

    def value(self, loss: BilinearLoss) -> Tensor:
        """Returns the maximum over critics, the integral of weight |N|^2/m; its gradient reaches the parameters of ``made``."""
        (g, a, b), (g1, a1, b1) = weights_of(loss)
        f, f_q, f_p = (x[:, 0] for x in (self.teacher_prediction, self.exact(self.made), self.exact(self.real)))
        numerator = self.q * (b * f_q - a * f) + self.p * (b1 * f_p - a1 * f)
        density = g * self.q + g1 * self.p
        return self.weight * (numerator.square() / density.clamp_min(torch.finfo(density.dtype).tiny)).sum()

    def distance(self, distribution: Mixture, left: Tensor, right: Tensor) -> Tensor:
        """Returns weight E|left - right|^2 for values at the nodes; a number."""
        return self.weight * (self.measure(distribution) * square_norm(left - right)).sum()


def least(value: Callable[[Tensor], Tensor], start: Sequence[float], rounds: int = 60) -> tuple[list[float], float]:
    """Returns where a smooth function of a few numbers is least near ``start``, and its value there (L-BFGS)."""
    knobs = torch.tensor(list(start), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([knobs], max_iter=rounds, line_search_fn="strong_wolfe", tolerance_grad=1e-11, tolerance_change=1e-14)

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = value(knobs)
        loss.backward()
        return loss

    optimiser.step(closure)
    return knobs.tolist(), value(knobs).item()


def affine_divergence(model: MatchingModel, real: Mixture, made: Mixture, time: float) -> Tensor:
    """Returns weight E_q|f_p - f_q|^2 in closed form, for distributions of one component and any dimension.

    The difference of two affine fields is affine, so its mean square is its square at the mean and along the columns of a root of the
    covariance.
    """
    at = model.interpolant.coefficients(torch.tensor([time], dtype=torch.float64))
    known = torch.stack([row.stack(at.time)[0] for row in model.known(at)])
    _, mean, covariance = made.latents(None)
    centre = torch.einsum("mi,is->ms", known, mean[0, 0])
    size = centre.numel()
    root = torch.linalg.cholesky(torch.einsum("mi,isjt,nj->msnt", known, covariance[0, 0], known).reshape(size, size))
    values = torch.cat([centre[None], centre + root.T.reshape(size, *centre.shape)])
    condition = Condition(None, values[:, 1] if model.sees_source else None)
    point = (values[:, 0], torch.full((size + 1,), time, dtype=torch.float64), condition)
    difference = GaussianField(model, real)(*point) - GaussianField(model, made)(*point)
    weight = torch.as_tensor(model.weight(at), dtype=torch.float64).reshape(())
    return weight * (difference[0].square().sum() + (difference[1:] - difference[0]).square().sum())


class AffineStudent(Student):
    """``data = shift[label] + gain source + scale noise``, one number or an event of independent entries, whose distribution is known.

    Args:
        shift: one for each class, or one.
        gain, scale: of the source and of the student's own noise.
    """

    def __init__(self, shift: Tensor, gain: float, scale: float) -> None:
        super().__init__()
        self.nfe = 1
        self.shift = nn.Parameter(shift.clone().double())
        self.stretch = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
        self.gain, self.scale = gain, scale

    def forward(self, source: Tensor, condition: Condition, *, generator: torch.Generator) -> Tensor:
        own = self.shift[:1].expand(len(source)) if condition.label is None else self.shift[condition.label]
        noise = draw_like(source, generator)
        return expand(own, source) + self.stretch * (self.gain * source + self.scale * noise)

    def distribution(self, coupling: Coupling, source: Mixture, shift: Tensor | None = None, stretch: Tensor | None = None) -> Mixture:
        """Returns the joint distribution of the student's data and the source that joins them, with its parameters or with given ones.

        Args:
            source: one component a class, of dimension 1; its source is what the student reads (a normal one unless the coupling reads it).
        """
        shift = self.shift.detach() if shift is None else shift
        stretch = self.stretch.detach() if stretch is None else stretch
        read = source if coupling.reads_source else source.coupled(Independent())
        at, z = read.mean[:, 0, 1, 0], read.covariance[:, 0, 1, 0, 1, 0]
        gain = stretch * self.gain
        mean = torch.stack([shift.expand_as(at) + gain * at, at], -1)[:, None, :, None]
        own = gain.square() * z + (stretch * self.scale).square()
        table = torch.stack([own, gain * z, gain * z, z], -1).reshape(-1, 1, 2, 1, 2, 1)
        return Mixture(read.weights, mean, table).coupled(coupling)
