"""Conversion of predictions by one linear solve.

Predictions live in the quotient of the space of rows by the relations. A field that predicts the rows p_1 .. p_k and sees the rows
s_1 .. s_m (the state, perhaps the source) determines the row d exactly if d is a combination of p's, s's and relations at every time of
the model's interval; the coefficients of the p's and s's are the conversion. Which rows to combine is decided once, when the conversion
is made; at run time the coefficients are a 3 x 3 solve in float64 by triple products, without a branch or a synchronisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.records import Condition
from matchlib.algebra.rows import Coefficients, Row, Scalar, join_heads, scaled
from matchlib.errors import ConversionError, IncompatibleError, UnknownNameError
from matchlib.registry import objectives

__all__ = ["Conversion", "View", "conversion", "determines", "rows_of", "spanning_rows", "view"]

VOLUME = 1e-16  # squared, normalised volume below which rows count as dependent
SUSPECT = 1e-2  # a local minimum above this is too far from zero to hide one between two probes
SINGULAR = 1e12  # a coefficient above this is a division by zero, rounded
RESIDUAL = 1e-8  # relative distance from the span above which a row counts as outside


def rows_of(model: MatchingModel, predicted: Sequence[Objective], at: Coefficients) -> tuple[Row, ...]:
    """Returns what a combination may be made of: predicted rows, known rows, relations."""
    heads = tuple(objective.row(model, at) for objective in predicted)
    return (*heads, *model.known(at), *model.relations(at))


def spanning_rows(model: MatchingModel, predicted: Sequence[Objective], wanted: Objective) -> tuple[int, ...] | None:
    """Returns the smallest set of rows that spans the wanted one on the whole interval, the best-conditioned of its size, or None.

    Raises:
        IncompatibleError: the model has no such prediction.
    """
    at = model.probe()
    rows = _stack(rows_of(model, predicted, at), at)
    goal = _stack((wanted.row(model, at),), at)[:, 0]
    for size in (1, 2, 3):
        spanning = [i for i in combinations(range(rows.shape[1]), size) if _spans(rows[:, i], goal)]
        sound = {i: _least_volume(model, predicted, i) for i in spanning}
        best = max(sound, key=sound.__getitem__, default=None)
        if best is not None and sound[best] > VOLUME:
            return best
    return None


def _least_volume(model: MatchingModel, predicted: Sequence[Objective], chosen: tuple[int, ...]) -> float:
    """Returns the least squared volume of the chosen rows over the interval: local minima are refined, so no zero is stepped over."""

    def volumes(t: Tensor) -> np.ndarray:
        at = model.interpolant.coefficients(t)
        return _volume(_stack(rows_of(model, predicted, at), at)[:, chosen]).numpy()

    t = model.probe().time
    values = volumes(t)
    lowest = float(values.min())
    inner = np.flatnonzero((values[1:-1] <= values[:-2]) & (values[1:-1] <= values[2:]) & (values[1:-1] < SUSPECT)) + 1
    for i in inner:
        low, high = t[i - 1], t[i + 1]
        for _ in range(6):  # each round narrows the bracket by 16
            fine = torch.linspace(float(low), float(high), 33, dtype=torch.float64)
            here = volumes(fine)
            j = int(here.argmin())
            low, high = fine[max(j - 1, 0)], fine[min(j + 1, 32)]
            lowest = min(lowest, float(here[j]))
    return lowest


class Conversion:
    """The coefficients that make one prediction of others.

    Args:
        model: gives coupling, interpolant, what is seen and the interval.
        predicted: the objectives whose rows the field predicts, one per head.
        wanted: the objective to read it as.

    Raises:
        ConversionError: the predictions do not determine the wanted one; the message names what further prediction would.
    """

    def __init__(self, model: MatchingModel, predicted: Sequence[Objective], wanted: Objective) -> None:
        self.model, self.predicted, self.wanted = model, tuple(predicted), wanted
        try:
            chosen = spanning_rows(model, self.predicted, wanted)
        except IncompatibleError as missing:
            raise ConversionError(str(missing)) from None
        if chosen is None:
            raise ConversionError(_refusal(model, self.predicted, wanted))
        self.chosen = chosen

    def check_at(self, t: float) -> None:
        """Refuses a time at which the conversion is singular, such as an end of the interval.

        Raises:
            ConversionError: some coefficient is not finite at ``t``, or would be but for rounding.
        """
        found = self.coefficients(self.model.interpolant.coefficients(torch.tensor([t], dtype=torch.float64)))
        if not all(abs(float(k)) < SINGULAR for k in found):
            raise ConversionError(
                f"{' and '.join(map(_name, self.predicted))} read as {_name(self.wanted)} is singular at t = {t:g} for "
                f"{type(self.model.interpolant).__name__}; keep away from it, for example with teacher.times.t_min=0.001, "
                "teacher.times.t_max=0.999 or student.t_start=0.99"
            )

    def coefficients(self, at: Coefficients) -> list[Tensor | float]:
        """Returns one coefficient, ``(b,)`` or exactly 0.0, for each prediction and then for each known row."""
        precise = at if at.time.dtype == torch.float64 else self.model.interpolant.coefficients(at.time.double())
        rows = _stack(rows_of(self.model, self.predicted, precise), precise)
        wanted = _stack((self.wanted.row(self.model, precise),), precise)[:, 0]
        solved = _solve(rows[:, self.chosen], wanted)
        found = dict(zip(self.chosen, solved, strict=True))
        return [found.get(i, 0.0) for i in range(len(self.predicted) + len(self.model.known(at)))]

    def __call__(self, predictions: Sequence[Tensor], state: Tensor, at: Coefficients, source: Tensor | None) -> Tensor:
        """Returns the wanted prediction, shape ``(b, *event)``.

        Args:
            predictions: one tensor ``(b, *event)`` per head.
            source: needed where the model sees it.
        """
        return self.combine(self.coefficients(at), predictions, state, source)

    def combine(self, coefficients: Sequence[Scalar], predictions: Sequence[Tensor], state: Tensor, source: Tensor | None) -> Tensor:
        """Returns the combination with given coefficients, those that are exactly 0.0 left out."""
        seen: tuple[Tensor, ...] = (*predictions, state)
        if self.model.sees_source:
            assert source is not None, "a field that sees the source is asked with it"
            seen = (*seen, source)
        pairs = zip(coefficients, seen, strict=True)
        terms = [scaled(k, x) for k, x in pairs if isinstance(k, Tensor) or k != 0.0]
        return sum(terms[1:], start=terms[0])


def determines(model: MatchingModel, wanted: Objective) -> bool:
    """Returns whether a model's own predictions determine another row."""
    try:
        return spanning_rows(model, model.objective.heads, wanted) is not None
    except IncompatibleError:
        return False


@lru_cache(maxsize=256)
def conversion(model: MatchingModel, wanted: Objective) -> Conversion:
    """Returns (and remembers) the conversion of a model's own predictions to ``wanted``, a single row."""
    return Conversion(model, model.objective.heads, wanted)


class View(nn.Module):
    """A field re-read as another prediction.

    Args:
        field: predicts ``model.objective``.
        model: what ``field`` was trained for.
        wanted: what to read it as, of one head or several.

    Raises:
        ConversionError: the field does not determine ``wanted``.
    """

    def __init__(self, field: nn.Module, model: MatchingModel, wanted: Objective) -> None:
        super().__init__()
        self.field = field
        self.conversions = [conversion(model, head) for head in wanted.heads]
        self.model, self.interpolant = model, model.interpolant

    def forward(self, state: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """Returns the prediction, shape ``(b, *event)``, or ``(b, heads, *event)``."""
        predictions, at = self.model.split(self.field(state, time, condition)), self.interpolant.coefficients(time)
        return join_heads([convert(predictions, state, at, condition.source) for convert in self.conversions])


def view(field: nn.Module, model: MatchingModel, wanted: Objective) -> nn.Module:
    """Returns ``field`` read as ``wanted``: itself if it predicts that already, else a View."""
    return field if wanted == model.objective else View(field, model, wanted)


def _stack(rows: Sequence[Row], at: Coefficients) -> Tensor:
    return torch.stack([row.stack(at.time) for row in rows], 1)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _volume(rows: Tensor) -> Tensor:
    """Squared volume spanned by unit rows, ``(b, n, 3) -> (b,)``: 1 if orthogonal, 0 if dependent."""
    first, second, third = _complete(_unit(rows))
    normal = torch.linalg.cross(first, second)
    return normal.square().sum(-1) if rows.shape[1] < 3 else (normal * third).sum(-1).square()


def _complete(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Completes one or two rows to a basis by directions orthogonal to them, so that the solve is a projection onto their span."""
    first = rows[:, 0]
    if rows.shape[1] == 1:
        axis = torch.eye(3, dtype=rows.dtype, device=rows.device)[first.abs().argmin(-1)]
        axis = axis - (axis * first).sum(-1, keepdim=True) / first.square().sum(-1, keepdim=True) * first
        second = axis
    else:
        second = rows[:, 1]
    third = rows[:, 2] if rows.shape[1] == 3 else torch.linalg.cross(first, second)
    return first, second, third


def _solve(rows: Tensor, wanted: Tensor) -> list[Tensor]:
    """Solves sum_i k_i rows_i = wanted by triple products: ``(b, n, 3), (b, 3) -> n x (b,)``."""
    first, second, third = _complete(rows)
    across = torch.linalg.cross(second, third), torch.linalg.cross(third, first), torch.linalg.cross(first, second)
    volume = (first * across[0]).sum(-1)
    return [(wanted * normal).sum(-1) / volume for normal in across[: rows.shape[1]]]


def _spans(rows: Tensor, wanted: Tensor) -> bool:
    """Whether ``wanted`` is a combination of ``rows`` at every probed time."""
    if not torch.isfinite(rows).all():
        return False
    unit = _unit(rows)
    made = sum((k[:, None] * unit[:, i] for i, k in enumerate(_solve(unit, wanted))), start=torch.zeros_like(wanted))
    return bool(((made - wanted).norm(dim=-1) <= RESIDUAL * wanted.norm(dim=-1)).all())


def _name(objective: Objective) -> str:
    try:
        return objectives.name_of(objective)
    except UnknownNameError:
        return type(objective).__name__


def _refusal(model: MatchingModel, predicted: tuple[Objective, ...], wanted: Objective) -> str:
    """Says why, and which further prediction would be enough."""
    enough = [
        name
        for name, extra in _candidates(model)
        if extra not in predicted and extra != wanted and spanning_rows(model, (*predicted, extra), wanted) is not None
    ]
    why = "the field sees the state" + (" and the source" if model.sees_source else " but not the source")
    advice = f"a further prediction would be enough: {' or '.join(enough)}" if enough else "no further prediction is enough"
    return (
        f"{' and '.join(map(_name, predicted))} does not determine {_name(wanted)} for {type(model.interpolant).__name__} with "
        f"{type(model.coupling).__name__} ({why}); {advice}"
    )


def _candidates(model: MatchingModel) -> list[tuple[str, Objective]]:
    """Every registered objective of one row that the model has."""
    found = []
    for name, objective in ((name, objectives[name]()) for name in objectives):
        try:
            fits = objective.heads == (objective,) and replace(model, objective=objective)
        except IncompatibleError:
            continue
        found += [(name, objective)] if fits else []
    return found
