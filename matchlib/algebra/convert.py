"""Conversion of predictions by one linear solve.

Predictions live in the quotient of the space of rows by the relations. Let a field predict the rows p_1 .. p_k and see the rows
s_1 .. s_m (the state, perhaps the source). It determines the row d exactly if d is a combination of p's, s's and relations at every time
of the model's interval. The coefficients of the p's and s's are the conversion. Which rows to combine is decided once, when the conversion
is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn

from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.algebra.records import Condition
from matchlib.algebra.rows import Coefficients, Row, Scalar, join_heads, scaled
from matchlib.algebra.span import smallest_span, solve, stack_rows
from matchlib.errors import ConversionError, IncompatibleError

__all__ = ["Conversion", "View", "conversion", "determines", "refusal", "rows_of", "spanning_rows", "view"]

SINGULAR = 1e12  # a coefficient above this is a division by zero, rounded


def rows_of(model: MatchingModel, predicted: Sequence[Objective], at: Coefficients) -> tuple[Row, ...]:
    """Returns what a combination may be made of: predicted rows, known rows, relations."""
    heads = tuple(objective.row(model, at) for objective in predicted)
    return (*heads, *model.known(at), *model.relations(at))


def spanning_rows(model: MatchingModel, predicted: Sequence[Objective], wanted: Objective) -> tuple[int, ...] | None:
    """Returns the smallest set of rows that spans the wanted one on the whole interval, the best-conditioned of its size, or None.

    Raises:
        IncompatibleError: the model has no such prediction.
    """
    return smallest_span(
        lambda at: rows_of(model, predicted, at),
        lambda at: wanted.row(model, at),
        model.interpolant.coefficients,
        model.probe().time,
    )


def _class_name(objective: Objective) -> str:
    return type(objective).__name__


def refusal(
    model: MatchingModel, predicted: Sequence[Objective], wanted: Objective, *, name: Callable[[Objective], str] = _class_name
) -> str:
    """Returns what to say where predictions do not determine another; ``name`` is what an objective is called."""
    known = "the state" + (" and the source" if model.sees_source else " but not the source")
    return (
        f"{' and '.join(map(name, predicted))} does not determine {name(wanted)} for {type(model.interpolant).__name__} with "
        f"{type(model.coupling).__name__} (the field sees {known})"
    )


class Conversion:
    """The coefficients that make one prediction of others.

    Args:
        model: gives coupling, interpolant, what is seen and the interval.
        predicted: the objectives whose rows the field predicts, one per head.
        wanted: the objective to read it as.

    Raises:
        ConversionError: the predictions do not determine the wanted one.
    """

    def __init__(self, model: MatchingModel, predicted: Sequence[Objective], wanted: Objective) -> None:
        self.model, self.predicted, self.wanted = model, tuple(predicted), wanted
        try:
            chosen = spanning_rows(model, self.predicted, wanted)
        except IncompatibleError as missing:
            raise ConversionError(str(missing)) from None
        if chosen is None:
            raise ConversionError(refusal(model, self.predicted, wanted), model, self.predicted, wanted)
        self.chosen = chosen

    def check_at(self, t: float, cure: str) -> None:
        """Refuses a time at which the conversion is singular, such as an end of the interval.

        Args:
            cure: a setting that keeps away from it, with a value.

        Raises:
            ConversionError: some coefficient is not finite at ``t``, or would be but for rounding.
        """
        coefficients = self.coefficients(self.model.interpolant.coefficients(torch.tensor([t], dtype=torch.float64)))
        if not all(abs(float(k)) < SINGULAR for k in coefficients):
            raise ConversionError(
                f"{' and '.join(map(_class_name, self.predicted))} read as {_class_name(self.wanted)} is singular at t = {t:g} for "
                f"{type(self.model.interpolant).__name__}; keep away from it, for example with {cure}"
            )

    def coefficients(self, at: Coefficients) -> list[Tensor | float]:
        """Returns one coefficient, ``(b,)`` or exactly 0.0, for each prediction and then for each known row."""
        precise = at if at.time.dtype == torch.float64 else self.model.interpolant.coefficients(at.time.double())
        rows = stack_rows(rows_of(self.model, self.predicted, precise), precise.time)
        wanted = stack_rows((self.wanted.row(self.model, precise),), precise.time)[:, 0]
        solved = dict(zip(self.chosen, solve(rows[:, self.chosen], wanted), strict=True))
        return [solved.get(i, 0.0) for i in range(len(self.predicted) + len(self.model.known(at)))]

    def __call__(self, predictions: Sequence[Tensor], state: Tensor, at: Coefficients, source: Tensor | None) -> Tensor:
        """Returns the wanted prediction, shape ``(b, *event)``.

        Args:
            predictions: one tensor ``(b, *event)`` per head.
            source: needed where the model sees it.
        """
        return self.combine(self.coefficients(at), predictions, state, source)

    def combine(self, coefficients: Sequence[Scalar], predictions: Sequence[Tensor], state: Tensor, source: Tensor | None) -> Tensor:
        """Returns the combination with given coefficients, those that are exactly 0.0 left out."""
        terms: tuple[Tensor, ...] = (*predictions, state)
        if self.model.sees_source:
            assert source is not None, "a field that sees the source is asked with it"
            terms = (*terms, source)
        pairs = zip(coefficients, terms, strict=True)
        products = [scaled(k, x) for k, x in pairs if isinstance(k, Tensor) or k != 0.0]
        return sum(products[1:], start=products[0])


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
        predictions, at = self.model.split(self.field(state, time, condition), state), self.interpolant.coefficients(time)
        return join_heads([convert(predictions, state, at, condition.source) for convert in self.conversions])


def view(field: nn.Module, model: MatchingModel, wanted: Objective) -> nn.Module:
    """Returns ``field`` read as ``wanted``: itself if it predicts that already, else a View."""
    return field if wanted == model.objective else View(field, model, wanted)
