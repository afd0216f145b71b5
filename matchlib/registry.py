"""A registry maps names to plugins and imports a plugin only when it is asked for.

A built-in plugin is a file: ``matchlib/plugins/<group>/<name>.py`` registers ``<name>`` (underscores in the file stand for hyphens in
the name). A third-party plugin is an entry point of the group ``matchlib.<group>``. So the names are known without importing anything.
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
from typing import Any, Generic, TypeVar

from matchlib.errors import SettingError, UnknownNameError, nearest

__all__ = ["Registry", "fields_of"]

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

    @cached_property
    def _files(self) -> dict[str, str]:
        package = importlib.import_module(f"matchlib.plugins.{self.group}")
        modules = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
        return {name.replace("_", "-"): f"{package.__name__}.{name}" for name in modules}

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

        def decorate(plugin: P) -> P:
            where = getattr(plugin, "__module__", None)
            if key in self._plugins or self._owner(key) not in (None, where):
                raise SettingError(f"{self.group}: {name!r} is already registered; choose another name")
            self._plugins[key] = plugin  # type: ignore[assignment]
            return plugin

        return decorate

    def _owner(self, key: str) -> str | None:
        """The module that a file or entry point reserves the name for."""
        if key in self._files:
            return self._files[key]
        point = self._entry_points.get(key)
        return point.module if point else None

    def __getitem__(self, name: str) -> T:
        key = self.canonical(name)
        if key not in self._plugins:
            self._load(key)
        return self._plugins[key]

    def _load(self, key: str) -> None:
        if key in self._files:
            importlib.import_module(self._files[key])
        elif key in self._entry_points:
            loaded = self._entry_points[key].load()
            if not isinstance(loaded, ModuleType) and key not in self._plugins:
                self._plugins[key] = loaded
        if key not in self._plugins:
            known = ", ".join(sorted(self)) or "none"
            raise UnknownNameError(
                f"{self.group}: {key!r} is not registered (there are: {known}){nearest(key, self)}"
                f" A new one is added with @matchlib.{self.group}.register({key!r})"
            )

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._files, *self._entry_points, *self._plugins}))

    def __len__(self) -> int:
        return len({*self._files, *self._entry_points, *self._plugins})

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.canonical(name) in set(self)

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

    def build(self, spec: Mapping[str, Any], *positional: Any, beside: Iterable[str] = ()) -> Any:
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
                    f"{nearest(key, [*accepted, *beside])}"
                )
        return plugin(*positional, **fields)
