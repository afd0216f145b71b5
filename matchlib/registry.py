"""Registries: names of plugins, and the plugins.

Built-in plugins of a group are registered by importing ``matchlib.plugins.<group>``; those of other packages are entry points of the group
``matchlib.<group>``. Nothing is imported before a name is asked for.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from matchlib.errors import SettingError, UnknownNameError, nearest

if TYPE_CHECKING:
    from matchlib.algebra.coupling import Coupling
    from matchlib.algebra.interpolant import Interpolant
    from matchlib.algebra.objective import Objective
    from matchlib.distillation.family import Family
    from matchlib.distillation.loss import DistillationLoss
    from matchlib.distillation.student import Student
    from matchlib.fields.sampler import Sampler
    from matchlib.training.task import Task

__all__ = [
    "ALL",
    "Registry",
    "couplings",
    "datasets",
    "families",
    "fields_of",
    "interpolants",
    "losses",
    "metrics",
    "networks",
    "objectives",
    "samplers",
    "students",
    "tasks",
]

T = TypeVar("T")


P = TypeVar("P")


def fields_of(plugin: Any) -> dict[str, inspect.Parameter]:
    """Returns the settings a plugin accepts: the keyword parameters of its constructor."""
    parameters = inspect.signature(plugin).parameters.values()
    return {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


class Registry(Mapping[str, T], Generic[T]):
    """Names and plugins of one group.

    Args:
        group: the plural, as in ``matchlib.interpolants`` and in the entry-point group of the same name.
    """

    def __init__(self, group: str) -> None:
        self.group = group
        self._plugins: dict[str, T] = {}
        self._imported = False

    def _import_builtins(self) -> None:
        """Imports the module, or the package's modules, that register the group's built-in plugins."""
        if self._imported:
            return
        self._imported = True
        module = importlib.import_module(f"matchlib.plugins.{self.group}")
        for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
            importlib.import_module(f"{module.__name__}.{part.name}")

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=f"matchlib.{self.group}")}

    @staticmethod
    def canonical(name: str) -> str:
        """Returns the registered spelling: hyphens, so that ``minibatch_ot`` and ``minibatch-ot`` are one name."""
        return name.replace("_", "-")

    def register(self, name: str) -> Callable[[P], P]:
        """Returns a decorator that registers a plugin under ``name``; a name that is taken is refused.

        Raises:
            SettingError: another plugin bears the name.
        """
        key = self.canonical(name)

        def decorate(plugin: Any) -> Any:
            if not plugin.__module__.startswith("matchlib.plugins."):
                self._import_builtins()
            reserved = self._entry_points.get(key)
            if key in self._plugins or (reserved is not None and reserved.module != plugin.__module__):
                raise SettingError(f"{self.group}: {name!r} is already registered; choose another name")
            self._plugins[key] = plugin
            return plugin

        return decorate

    def __getitem__(self, name: str) -> T:
        key = self.canonical(name)
        self._import_builtins()
        if key not in self._plugins:
            self._load(key)
        return self._plugins[key]

    def _load(self, key: str) -> None:
        if key in self._entry_points:
            loaded = self._entry_points[key].load()
            if not isinstance(loaded, ModuleType) and key not in self._plugins:
                self._plugins[key] = loaded
        if key not in self._plugins:
            known = ", ".join(sorted(self)) or "none"
            raise UnknownNameError(
                f"{self.group}: {key!r} is not registered (there are: {known}){nearest(key, self)}"
                f" A new one is added with @matchlib.{self.group}.register({key!r})"
            )

    def _names(self) -> set[str]:
        self._import_builtins()
        return {*self._entry_points, *self._plugins}

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names()))

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.canonical(name) in self._names()

    def name_of(self, plugin: Any) -> str:
        """Returns the name that a plugin, or the class of a value, is registered under."""
        kind = plugin if isinstance(plugin, type) else type(plugin)
        for name, registered in self._plugins.items():
            if registered is kind:
                return name
        raise UnknownNameError(f"{self.group}: {kind.__name__} is not registered, so no file can refer to it by name")

    def describe(self, value: Any) -> dict[str, Any]:
        """Returns the JSON form of a value: its registered name and its fields."""
        return {"name": self.name_of(value), **dataclasses.asdict(value)}

    def build(self, spec: Mapping[str, Any], *positional: Any, also_accepted: Iterable[str] = ()) -> Any:
        """Returns the value that a JSON form describes; the inverse of ``describe``.

        Args:
            positional: what the constructor takes besides settings.
            beside: keys that may stand beside the settings where the spec comes from, for the hint in an error.

        Raises:
            UnknownNameError: the name, or one of the fields, does not exist.
        """
        fields = {key: tuple(v) if isinstance(v, list) else v for key, v in spec.items() if key != "name"}
        plugin: Any = self[spec["name"]]
        accepted = list(fields_of(plugin))[len(positional) :]
        for key in fields:
            if key not in accepted:
                raise UnknownNameError(
                    f"{self.group} {spec['name']!r} has no setting {key!r} (it has: {', '.join(accepted) or 'none'})"
                    f"{nearest(key, [*accepted, *also_accepted])}"
                )
        return plugin(*positional, **fields)


couplings: Registry[type[Coupling]] = Registry("couplings")


interpolants: Registry[type[Interpolant]] = Registry("interpolants")


objectives: Registry[type[Objective]] = Registry("objectives")


families: Registry[type[Family]] = Registry("families")


students: Registry[type[Student]] = Registry("students")


losses: Registry[type[DistillationLoss]] = Registry("losses")


networks: Registry[Any] = Registry("networks")


datasets: Registry[Any] = Registry("datasets")


samplers: Registry[type[Sampler]] = Registry("samplers")


metrics: Registry[Any] = Registry("metrics")


tasks: Registry[type[Task]] = Registry("tasks")


ALL: dict[str, Registry[Any]] = {
    registry.group: registry
    for registry in (
        couplings,
        interpolants,
        objectives,
        families,
        students,
        losses,
        networks,
        datasets,
        samplers,
        metrics,
    )
}
