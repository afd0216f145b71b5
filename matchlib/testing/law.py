"""What a law is, and how it is run over the registries."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky, Unsatisfiable

from matchlib.errors import MatchlibError
from matchlib.registry import ALL

__all__ = ["LAWS", "Law", "Outcome", "broken", "cases", "check", "law"]

Function = Callable[[str, st.DataObject], float]


@dataclass(frozen=True)
class Law:
    """A statement that every plugin of a group obeys.

    Args:
        name: of the function that checks it.
        group: registry whose plugins it is about.
        statement: first paragraph of its docstring.
        advice: what is wrong with a plugin that fails, and what to change.
        function: called with (plugin name, draw); returns the error, which must not exceed the tolerance.
        tolerance: largest error, in the law's own unit; a plugin may state another by law name in a class attribute ``tolerances``.
        examples: drawn cases a plugin.
        where: which plugins of the group it is about.
    """

    name: str
    group: str
    statement: str
    advice: str
    function: Function
    tolerance: float
    examples: int
    where: Callable[[str], bool]

    def tolerance_for(self, plugin: str) -> float:
        """Returns the largest error that a plugin may have."""
        stated: Mapping[str, float] = getattr(ALL[self.group][plugin], "tolerances", {})
        return stated.get(self.name, self.tolerance)


@dataclass(frozen=True)
class Outcome:
    """One law on one plugin.

    Args:
        law, plugin: which.
        checks: number of cases.
        worst: the largest error.
        message: what went wrong; empty if nothing did.
        case: what was drawn where it went wrong.
    """

    law: Law
    plugin: str
    checks: int
    worst: float
    message: str = ""
    case: str = ""

    @property
    def passed(self) -> bool:
        """Whether every case was within tolerance."""
        return not self.message

    @property
    def explanation(self) -> str:
        """What failed, where, and what to change; empty if nothing failed."""
        if self.passed:
            return ""
        lines = [f"{self.plugin} fails {self.law.name}: {self.message}", f"  the law: {self.law.statement}"]
        return "\n".join([*lines, *([f"  the case: {self.case}"] if self.case else []), f"  what to change: {self.law.advice}"])


LAWS: dict[str, Law] = {}


def law(
    group: str, *, tolerance: float, examples: int = 20, where: Callable[[str], bool] = lambda name: True
) -> Callable[[Function], Function]:
    """Returns a decorator that enrols a law; its statement and, after ``Advice:``, its advice stand in the function's docstring."""

    def enrol(function: Function) -> Function:
        text, _, advice = (function.__doc__ or "").partition("Advice:")
        statement, advice = (" ".join(part.split()) for part in (text.split("\n\n")[0], advice))
        LAWS[function.__name__] = Law(function.__name__, group, statement, advice, function, tolerance, examples, where)
        return function

    return enrol


def broken(group: str | None = None) -> dict[tuple[str, str], str]:
    """Returns (group, plugin) of entry points that cannot be loaded, of one group or of all, and why."""
    reasons = {}
    for name, registry in ALL.items():
        for plugin in registry if group in (None, name) else ():
            try:
                registry[plugin]
            except MatchlibError as error:
                reasons[name, plugin] = str(error)
    return reasons


@cache
def _import_everything() -> None:
    """Imports every plugin there is: one that registers others in the middle of a law would change what is drawn."""
    broken()


def cases(group: str | None = None, plugin: str | None = None, *, without: Collection[tuple[str, str]] = ()) -> Iterator[tuple[Law, str]]:
    """Yields every (law, plugin), or those of one group or plugin; a new plugin is enrolled by being registered.

    Args:
        without: (group, plugin) that are left out, because they cannot be loaded.
    """
    package = importlib.import_module("matchlib.testing.laws")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    for one in LAWS.values():
        if group in (None, one.group):
            names = [ALL[one.group].canonical(plugin)] if plugin is not None else list(ALL[one.group])
            yield from ((one, name) for name in names if (one.group, name) not in without and _applies(one, name))


def _applies(one: Law, plugin: str) -> bool:
    """Whether a law is about a plugin; it is where the plugin fails when it is asked, so that the law can say so."""
    try:
        return one.where(plugin)
    except Exception:  # whatever a plugin of somebody else's raises
        return True


class _Drawing:
    """Draws for a law as hypothesis does, and remembers what a person can read of it."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.read: list[str] = []

    def draw(self, strategy: st.SearchStrategy[Any], label: str = "") -> Any:
        """Returns what is drawn; ``label`` names it in the case of a law that fails."""
        value = self.data.draw(strategy)
        self.read += [f"{label} = {text}" if label else text for text in _readable(value)]
        return value


def _readable(value: Any) -> list[str]:
    if isinstance(value, torch.Tensor):
        return [str([round(x, 4) for x in value.flatten().tolist()])] if value.numel() <= 4 else []
    if isinstance(value, float):
        return [f"{value:.4g}"]
    if hasattr(value, "model") and hasattr(value, "time"):
        return [f"{value.model!r} at t = {value.time:.4g}"]
    text = repr(value)
    return [text] if len(text) <= 300 and not any(word in text for word in ("tensor(", "object at", "\n")) else []


def check(one: Law, plugin: str) -> Outcome:
    """Runs a law on a plugin with drawn cases, the same ones every time."""
    _import_everything()
    errors: list[float] = []
    drawings: list[_Drawing] = []
    tolerance = one.tolerance_for(plugin)

    @settings(
        max_examples=one.examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(st.data())
    def run(data: st.DataObject) -> None:
        drawings[:] = [_Drawing(data)]
        error = float(one.function(plugin, drawings[0]))  # type: ignore[arg-type]
        errors.append(error)
        assert error <= tolerance, f"the error is {error:.3g}, and at most {tolerance:.3g} is allowed"

    message = _ran(run)
    case = "; ".join(drawings[0].read) if message and drawings else ""
    return Outcome(one, plugin, len(errors), max(errors, default=math.nan), message, case)


def _ran(run: Callable[[], None]) -> str:
    """Returns what went wrong in a run of cases, in one line; an empty string if nothing did."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny tensors: threads only cost
    try:
        run()
    except Unsatisfiable:
        return "no case applies"
    except Flaky:
        return "the same draws give other numbers: random numbers may come from the generator only"
    except AssertionError as failure:
        return str(failure).splitlines()[0] if str(failure) else "an assertion fails"
    except Exception as failure:
        return f"{type(failure).__name__}: {failure}".splitlines()[0]
    finally:
        torch.set_num_threads(threads)
    return ""
