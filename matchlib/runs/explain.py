"""Words for a user: refused conversions in the names that settings use, and what an unusual loss means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from matchlib.algebra.convert import refusal, spanning_rows
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.objective import Objective
from matchlib.distillation.loss import DistillationLoss
from matchlib.errors import ConversionError, IncompatibleError, UnknownNameError
from matchlib.registry import losses, objectives
from matchlib.runs.recipes import names, recipe

__all__ = ["cautioned", "explained"]


def cautioned(loss: DistillationLoss) -> str | None:
    """Returns what a user should know about the settings of a loss; None if nothing, or if a recipe states just this loss."""
    specs = (recipe(name).get("loss") for name in names())
    stated = [losses.build(spec) for spec in specs if spec is not None]
    return None if loss in stated else loss.caution


def explained(error: ConversionError) -> ConversionError:
    """Returns the error with registered names, and the further predictions that would be enough."""
    model, predicted, wanted = error.model, error.predicted, error.wanted
    if model is None:
        return error
    enough = [
        name
        for name, further in _rows(model)
        if further not in predicted and further != wanted and spanning_rows(model, (*predicted, further), wanted) is not None
    ]
    advice = f"a further prediction would be enough: {' or '.join(enough)}" if enough else "no further prediction is enough"
    return ConversionError(f"{refusal(model, predicted, wanted, name=_name)}; {advice}", model, predicted, wanted)


def _name(objective: Objective) -> str:
    try:
        return objectives.name_of(objective)
    except UnknownNameError:
        return type(objective).__name__


def _rows(model: MatchingModel) -> Iterator[tuple[str, Objective]]:
    """Yields every registered objective of one row that the model has."""
    for name in objectives:
        objective = objectives[name]()
        if objective.heads != (objective,):
            continue
        try:
            replace(model, objective=objective)
        except IncompatibleError:
            continue
        yield name, objective
