"""What a law is, and how it is run over the registries."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from matchlib.errors import MatchlibError
from matchlib.registry import ALL

__all__ = ["LAWS", "Law", "Outcome", "cases", "check", "law"]


@dataclass(frozen=True)
class Law:
    """A statement that every plugin of a group obeys.

    Args:
        name: of the function that checks it.
        group: registry whose plugins it is about.
        statement: first line of its docstring.
        function: called with (plugin name, draw); returns the error, which must not exceed the tolerance.
        tolerance: largest error, in the law's own unit; a plugin may state another by law name in a class attribute ``tolerances``.
        examples: drawn cases a plugin.
        where: which plugins of the group it is about.
    """

    name: str
    group: str
    statement: str
    function: Callable[[str, st.DataObject], float]
    tolerance: float
    examples: int
    where: Callable[[str], bool]

    def tolerance_for(self, plugin: str) -> float:
        """Returns the largest error that a plugin may have."""
        stated: Mapping[str, float] = getattr(ALL[self.group][plugin], "tolerances", {})
        return stated.get(self.name, self.tolerance)


@dataclass(frozen=True)
class Outcome:
    """One law on one plugin: how many cases, the worst error, and what went wrong."""

    law: Law
    plugin: str
    checks: int
    worst: float
    message: str = ""

    @property
    def passed(self) -> bool:
        """Whether every case was within tolerance."""
        return not self.message


LAWS: dict[str, Law] = {}


def law(
    group: str, *, tolerance: float, examples: int = 20, where: Callable[[str], bool] = lambda name: True
) -> Callable[[Callable], Callable]:
    """Returns a decorator that enrols a law."""

    def enrol(function: Callable[[str, st.DataObject], float]) -> Callable[[str, st.DataObject], float]:
        statement = (function.__doc__ or "").strip().splitlines()[0]
        LAWS[function.__name__] = Law(function.__name__, group, statement, function, tolerance, examples, where)
        return function

    return enrol


def cases(group: str | None = None, plugin: str | None = None) -> Iterator[tuple[Law, str]]:
    """Yields every (law, plugin), or those of one group or plugin; a new plugin is enrolled by being registered."""
    importlib.import_module("matchlib.testing.strategies").all_models()  # made once, outside of any drawing
    package = importlib.import_module("matchlib.testing.laws")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for one in LAWS.values():
        if group in (None, one.group):
            names = [ALL[one.group].canonical(plugin)] if plugin is not None else list(ALL[one.group])
            yield from ((one, name) for name in names if one.where(name))


def check(one: Law, plugin: str) -> Outcome:
    """Runs a law on a plugin with drawn cases, the same ones every time."""
    errors: list[float] = []
    tolerance = one.tolerance_for(plugin)

    @settings(
        max_examples=one.examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
        print_blob=False,
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        error = float(one.function(plugin, data))
        errors.append(error)
        if not error <= tolerance:
            raise AssertionError(f"error {error:.3g} > {tolerance:.3g}")

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: threads only cost
    try:
        run()
    except Unsatisfiable:
        return Outcome(one, plugin, 0, math.nan, "no case applies")
    except (AssertionError, MatchlibError, RuntimeError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as failure:
        return Outcome(one, plugin, len(errors), max(errors, default=math.nan), f"{type(failure).__name__}: {failure}".splitlines()[0])
    finally:
        torch.set_num_threads(threads)
    return Outcome(one, plugin, len(errors), max(errors, default=math.nan))
