"""A matching model: coupling, interpolant and objective, composed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.interpolant import Interpolant, draw_like
from matchlib.algebra.objective import Objective
from matchlib.algebra.records import Batch, Condition, Pair, PathSample
from matchlib.algebra.rows import Coefficients, Row, join_heads, joined_shape, scaled, split_heads
from matchlib.algebra.span import smallest_span
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import IncompatibleError

__all__ = ["Field", "MatchingModel", "Moments", "best_multiple", "mean_square", "square_norm"]

Field = Callable[[Tensor, Tensor, Condition], Tensor]


def square_norm(x: Tensor) -> Tensor:
    """Returns |x|^2 summed over event dimensions: ``(b, *event) -> (b,)``."""
    return x.square().flatten(1).sum(1)


def best_multiple(target: Tensor, state: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """Returns the number c with the least sum of ``weight |target - c state|^2``: what every predictor has to beat.

    Args:
        target, state: shape ``(b, *event)``.
        weight: ``(b,)`` or a float.
    """
    return (weight * (target * state).flatten(1).sum(1)).sum() / (weight * square_norm(state)).sum().clamp_min(1e-30)


def mean_square(x: Tensor) -> float:
    """Returns the mean of all squared entries, a host float (never call it in a training loop)."""
    return float(x.double().square().mean())


@dataclass(frozen=True)
class Moments:
    """Second moments of an entry of (data, source): what preconditioning and a generator's start need to know of the data.

    Args:
        data, source: mean squares, positive.
        cross: mean product of an entry of the data and the same entry of its source.
    """

    data: float = 1.0
    source: float = 1.0
    cross: float = 0.0

    def whiten(self, row: Row) -> Row:
        """Returns the row in an orthonormal basis of the latents, in which E[left right] is the dot product (a Cholesky factor)."""
        if self == Moments():
            return row
        root = math.sqrt(self.data)
        rest = math.sqrt(max(self.source - self.cross**2 / self.data, 0.0))
        return Row(row.data * root + row.source * (self.cross / root), row.source * rest, row.noise)


@dataclass(frozen=True)
class MatchingModel:
    """What a field is trained for.

    ``loss(field, batch) = weight(t) |field(state, t) - row(data, source, noise)|^2``, whose minimiser is the conditional expectation of
    the row given what the field sees; an objective of several heads is the sum of theirs.

    Args:
        coupling: the joint distribution of data and source.
        interpolant: the path that joins them.
        objective: the row, or rows, that a field predicts.
        times: density of t.
        sees_source: whether the field is given the source besides the state (augmented or conditional bridges).

    Raises:
        IncompatibleError: the pieces do not fit; decided here, on the CPU, never in a loop.
    """

    coupling: Coupling
    interpolant: Interpolant
    objective: Objective
    times: TimeDistribution = TimeDistribution()
    sees_source: bool = False

    def __post_init__(self) -> None:
        for piece in (self.coupling, self.interpolant, self.objective, self.times):
            if type(piece).__hash__ is None:
                raise IncompatibleError(f"{type(piece).__name__} has no hash: make it a @dataclass(frozen=True)")
        if self.times.t_min < self.interpolant.t_min or self.times.t_max > self.interpolant.t_max:
            raise IncompatibleError(
                f"{type(self.interpolant).__name__} is defined on ({self.interpolant.t_min}, {self.interpolant.t_max}), "
                f"but times asks for [{self.times.t_min}, {self.times.t_max}]; choose times inside"
            )
        rows = self.rows(self.probe())
        if not all(torch.isfinite(row.stack(self.probe().time)).all() for row in rows):
            raise IncompatibleError(
                f"{type(self.objective).__name__} is not finite along {type(self.interpolant).__name__} with "
                f"{type(self.coupling).__name__}; choose another objective or interpolant"
            )
        if self._leaves_nothing_to_learn():
            raise IncompatibleError(
                f"a field that sees the state{' and the source' if self.sees_source else ''} of {type(self.interpolant).__name__} with "
                f"{type(self.coupling).__name__} knows {type(self.objective).__name__} without learning anything; "
                "choose another objective, a path with noise, or sees_source=false"
            )

    def _leaves_nothing_to_learn(self) -> bool:
        """Returns whether what the field sees determines a row of the objective already."""
        t = self.probe().time

        def known(at: Coefficients) -> tuple[Row, ...]:
            return (*self.known(at), *self.relations(at))

        spans = (smallest_span(known, partial(head.row, self), self.interpolant.coefficients, t) for head in self.objective.heads)
        return any(span is not None for span in spans)

    def probe(self, knots: int = 257) -> Coefficients:
        """Returns float64 coefficients at midpoints of the model's interval, away from its ends."""
        t = (torch.arange(knots, dtype=torch.float64) + 0.5) / knots
        return self.interpolant.coefficients(self.times.t_min + (self.times.t_max - self.times.t_min) * t)

    @property
    def gaussian(self) -> bool:
        """Whether the state, given the data and what the field sees, is Gaussian through both source and noise."""
        return self.coupling.gaussian_source and not self.sees_source

    @property
    def data_at_start(self) -> float:
        """Weight of the data over that of what is random, given what the field sees, where samples start; infinite if nothing is.

        A start from the source alone (``start``) leaves the data out: samples are off where this is not small.
        """
        t_min, t_max = self.times.t_min, self.times.t_max
        at = self.interpolant.coefficients(torch.tensor([t_max - 1e-3 * (t_max - t_min)], dtype=torch.float64))
        a, b, c = (float(torch.as_tensor(x)) for x in (at.a, at.b, at.c))
        random = math.hypot(c, 0.0 if self.sees_source else b)
        return abs(a) / random if random else math.inf

    def row(self, at: Coefficients) -> Row:
        """Returns the objective's row at given coefficients."""
        return self.objective.row(self, at)

    def rows(self, at: Coefficients) -> tuple[Row, ...]:
        """Returns the row of each head."""
        return tuple(head.row(self, at) for head in self.objective.heads)

    def known(self, at: Coefficients) -> tuple[Row, ...]:
        """Returns the rows whose value the field sees: the state, and the source if the model says so."""
        return (at.state, Row(source=1.0)) if self.sees_source else (at.state,)

    def relations(self, at: Coefficients) -> tuple[Row, ...]:
        """Returns the rows whose conditional expectation vanishes."""
        unused = () if self.interpolant.noisy else (Row(noise=1.0),)
        return unused + self.coupling.relations(at, source_seen=self.sees_source)

    def condition(self, source: Tensor, label: Tensor | None) -> Condition:
        """Returns what a field of this model sees besides state and time."""
        return Condition(label=label, source=source if self.sees_source else None)

    def interpolate(self, pair: Pair, t: Tensor, *, generator: torch.Generator) -> PathSample:
        """Places a pair on the path at times ``t`` of shape ``(b,)``."""
        at = self.interpolant.coefficients(t)
        noise = draw_like(pair.data, generator) if self.interpolant.noisy else None
        state = at.state(pair.data, pair.source, noise)
        return PathSample(at, state, pair.data, pair.source, noise, self.condition(pair.source, pair.label))

    def sample_path(
        self, batch: Batch, *, generator: torch.Generator, times: TimeDistribution | None = None, like: PathSample | None = None
    ) -> PathSample:
        """Draws one point per sample: pairs the batch, draws times, interpolates.

        Args:
            times: density of t; None for the model's.
            like: a point whose random numbers are used again (common random numbers): its time, its noise and, where the source is
                independent of the data, its source. Each of the two points has the distribution of the other, and what they share cancels
                in a difference of their losses. The batch has its size.
        """
        if like is not None:
            return self._common(like, batch, generator)
        pair = self.coupling.pair(batch, generator=generator)
        t = (times or self.times).sample(self.interpolant, pair.data, generator)
        return self.interpolate(pair, t, generator=generator)

    def _common(self, point: PathSample, batch: Batch, generator: torch.Generator) -> PathSample:
        """Places other data where a point is."""
        pair = Pair(batch.data, point.source, batch.label) if self.coupling.independent else self.coupling.pair(batch, generator=generator)
        state = point.coefficients.state(pair.data, pair.source, point.noise)
        return replace(point, state=state, data=pair.data, source=pair.source, condition=self.condition(pair.source, pair.label))

    def target(self, point: PathSample) -> Tensor:
        """Returns the objective's rows evaluated on the point's latents, shape ``(b, *event)``, or ``(b, heads, *event)`` for several."""
        return join_heads([row(point.data, point.source, point.noise) for row in self.rows(point.coefficients)])

    def weight(self, at: Coefficients) -> Tensor | float:
        """Returns the objective's weight, ``(b,)`` or a float."""
        return self.objective.weight(at)

    def split(self, answer: Tensor, state: Tensor | None = None) -> tuple[Tensor, ...]:
        """Returns what a field of this model answers, head by head, each ``(b, *event)``.

        Args:
            state: what it was asked about, to compare the shapes.

        Raises:
            IncompatibleError: the answer has another shape.
        """
        heads = len(self.objective.heads)
        if state is not None and answer.shape != (wanted := (len(state), *joined_shape(state.shape[1:], heads))):
            raise IncompatibleError(
                f"a field answered with shape {tuple(answer.shape)} for states of shape {tuple(state.shape)}, and this model needs {wanted}"
            )
        return split_heads(answer, heads)

    def loss(self, field: Field, batch: Batch, *, generator: torch.Generator) -> Tensor:
        """Returns the weighted squared error of ``field`` at one point per sample, shape ``(b,)``."""
        point = self.sample_path(batch, generator=generator)
        answers = self.split(field(point.state, point.time, point.condition), point.state)
        parts = zip(self.objective.heads, answers, self.split(self.target(point)), strict=True)
        return torch.stack([head.weight(point.coefficients) * square_norm(answer - row) for head, answer, row in parts]).sum(0)

    def start(self, source: Tensor, t: Tensor, moments: Moments, *, generator: torch.Generator, remainder: float = 0.0) -> Tensor:
        """Draws a state at time ``t`` from its source alone.

        The data are replaced by their linear regression on the source, which is zero for an independent source. At t = 1, where a = 0, the
        start is then exact. For a(1) > 0 it is off by ``a`` times what the regression leaves open.

        Args:
            source: shape ``(b, *event)``.
            t: shape ``(b,)``.
            remainder: share of what the regression leaves open that is drawn, as a Gaussian; none is for an independent source. It is 1
                for a sampler, to which the state's distribution given the source matters. It is 0 for a generator, which learns from its
                own start.
        """
        at = self.interpolant.coefficients(t)
        noise = draw_like(source, generator) if self.interpolant.noisy else None
        regression = moments.cross / moments.source
        if regression == 0.0:
            return replace(at.state, data=0.0)(source, source, noise)
        data = scaled(regression, source)
        left = remainder * math.sqrt(max(moments.data - moments.cross**2 / moments.source, 0.0))
        if left:
            data = data + left * draw_like(source, generator)
        return at.state(data, source, noise)
