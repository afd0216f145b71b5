"""Registries: names of plugins, and the plugins.

Built-in plugins of a group are registered by importing ``matchlib.plugins.<group>``, or the same of another home; those of other packages
are entry points of the group ``matchlib.<group>``. Names are listed without importing anything.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError, SettingError, UnknownNameError, nearest

if TYPE_CHECKING:
    from matchlib.algebra.coupling import Coupling
    from matchlib.algebra.interpolant import Interpolant
    from matchlib.algebra.objective import Objective
    from matchlib.data.codec import Codec
    from matchlib.distillation.family import Family
    from matchlib.distillation.loss import DistillationLoss
    from matchlib.distillation.student import Student
    from matchlib.fields.sampler import Sampler
    from matchlib.training.task import Task
    from matchlib.training.tracker import Tracker

__all__ = [
    "ALL",
    "Metric",
    "MetricRegistry",
    "Registry",
    "codecs",
    "couplings",
    "datasets",
    "defined_in",
    "exports",
    "families",
    "fields_of",
    "file_of",
    "import_file",
    "interpolants",
    "losses",
    "metrics",
    "networks",
    "objectives",
    "samplers",
    "students",
    "tasks",
    "trackers",
]

T = TypeVar("T")
P = TypeVar("P")


_FILES: dict[tuple[Path, bytes], tuple[list[tuple[str, str]], ModuleType]] = {}  # run in this process: what they registered, and defined


def defined_in(path: Path) -> dict[str, Any] | None:
    """Returns the names of a file that ``import_file`` has run in this process, if it is as it was; None for any other."""
    whole = path.expanduser().absolute()
    found = _FILES.get((whole, whole.read_bytes())) if whole.is_file() else None
    return None if found is None else vars(found[1])


def file_of(kind: type) -> Path | None:
    """Returns the file that a class is written in; None for torch's, and for those that are in none."""
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if file is None or kind.__module__.partition(".")[0] in ("builtins", "torch"):
        return None
    return path if (path := Path(file)).is_file() else None


def import_file(path: Path) -> list[tuple[str, str]]:
    """Runs a file of plugins as a module, once in a process, and returns what it registered: (group, name) each.

    Raises:
        ArtifactError: there is no such file, or it fails.
        SettingError: it registers a name that is taken.
    """
    whole = path.expanduser().absolute()
    if not whole.is_file():
        raise ArtifactError(f"there is no file {path} of plugins")
    if whole.suffix != ".py":
        raise ArtifactError(f"plugins stand in a file of Python, FILE.py, got {str(path)!r}")
    key = whole, whole.read_bytes()
    if key in _FILES:
        return _FILES[key][0]
    before = {group: set(registry) for group, registry in ALL.items()}
    stem = re.sub(r"\W", "_", path.stem)
    name = stem if stem not in sys.modules and importlib.util.find_spec(stem) is None else f"{stem}_{len(_FILES)}"
    spec = importlib.util.spec_from_file_location(name, whole)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where classes and annotations are looked up
    try:
        spec.loader.exec_module(module)
    except MatchlibError:
        del sys.modules[name]
        raise
    except (SystemExit, Exception) as error:
        del sys.modules[name]
        raise ArtifactError(f"{path} fails: {type(error).__name__}: {' '.join(str(error).split())}"[:400]) from error
    _FILES[key] = [(group, name) for group, registry in ALL.items() for name in registry if name not in before[group]], module
    return _FILES[key][0]


def fields_of(plugin: Any) -> dict[str, inspect.Parameter]:
    """Returns the settings a plugin accepts: the keyword parameters of its constructor."""
    parameters = inspect.signature(plugin).parameters.values()
    return {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


class Registry(Mapping[str, T], Generic[T]):
    """Names and plugins of one group, by item (``families["flow"]``) or by attribute (``families.flow``, ``couplings.minibatch_ot``).

    Args:
        group: the plural, as in ``matchlib.interpolants`` and in the entry-point group of the same name.
        home: the package of ``matchlib`` in which the built-in plugins are.
    """

    def __init__(self, group: str, home: str = "plugins") -> None:
        self.group, self.home = group, home
        self._plugins: dict[str, T] = {}

    @staticmethod
    def canonical(name: str) -> str:
        """Returns the registered spelling: hyphens, so that ``minibatch_ot`` and ``minibatch-ot`` are one name."""
        return name.replace("_", "-")

    @cached_property
    def _builtin(self) -> frozenset[str]:
        """Names that matchlib's own files register, read from their text."""
        place = Path(__file__).parent / self.home
        files = [path for path in (place / f"{self.group}.py", *sorted((place / self.group).glob("*.py"))) if path.is_file()]
        pattern = rf'^@{self.group}\.register\("([^"]+)"'
        return frozenset(name for path in files for name in re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE))

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {self.canonical(point.name): point for point in entry_points(group=f"matchlib.{self.group}")}

    def _names(self) -> set[str]:
        return {*self._builtin, *self._entry_points, *self._plugins}

    def register(self, name: str) -> Callable[[P], P]:
        """Returns a decorator that registers a plugin under ``name`` and returns it.

        Raises:
            SettingError: another plugin bears the name.
        """
        return lambda plugin: self._add(name, plugin)

    def _add(self, name: str, plugin: Any, value: Any = None) -> Any:
        """Registers ``value``, or the plugin itself, under a name that is free."""
        key, module = self.canonical(name), plugin.__module__
        reserved = key in self._builtin and not module.startswith(f"matchlib.{self.home}.")
        other = key in self._entry_points and self._entry_points[key].module != module
        if key in self._plugins or reserved or other:
            raise SettingError(f"{self.group}: {name!r} is already registered; choose another name")
        self._plugins[key] = plugin if value is None else value
        return plugin

    def unregister(self, name: str) -> None:
        """Forgets a plugin that was registered in this process, so that its name is free again."""
        self._plugins.pop(self.canonical(name), None)

    def __getitem__(self, name: str) -> T:
        key = self.canonical(name)
        if key not in self._plugins:
            self._load(key)
        return self._plugins[key]

    def __getattr__(self, name: str) -> T:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except UnknownNameError as error:
            raise AttributeError(str(error)) from None

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *(name.replace("-", "_") for name in self)]

    def _load(self, key: str) -> None:
        if key in self._builtin:
            module = importlib.import_module(f"matchlib.{self.home}.{self.group}")
            for part in pkgutil.iter_modules(getattr(module, "__path__", ())):
                importlib.import_module(f"{module.__name__}.{part.name}")
        elif key in self._entry_points:
            self._load_entry_point(key)
        if key not in self._plugins:
            raise UnknownNameError(
                f"{self.group}: {key!r} is not registered (there are: {', '.join(self) or 'none'}){nearest(key, self)}"
                "; one of your own is registered by importing its module, which a command does with --plugins FILE.py"
            )

    def _load_entry_point(self, key: str) -> None:
        point = self._entry_points[key]
        try:
            loaded = point.load()
        except Exception as error:
            raise IncompatibleError(
                f"{self.group}: {key!r} is the entry point {point.value!r} of an installed package, which cannot be imported "
                f"({type(error).__name__}: {error}); repair or uninstall that package"
            ) from error
        if not isinstance(loaded, ModuleType) and key not in self._plugins:
            self.register(key)(loaded)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names()))

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.canonical(name) in self._names()

    def name_of(self, plugin: Any) -> str:
        """Returns the name that a plugin, or the class of a value, is registered under.

        Raises:
            UnknownNameError: it has none.
        """
        kind = plugin if isinstance(plugin, type) else type(plugin)
        for key, point in self._entry_points.items():
            if point.module == kind.__module__:
                self[key]
        for name, registered in self._plugins.items():
            if registered is kind:
                return name
        raise UnknownNameError(
            f"{self.group}: {kind.__name__} is not registered, so no file can refer to it by name; "
            f"decorate it with @matchlib.{self.group}.register(NAME)"
        )

    def describe(self, value: Any) -> dict[str, Any]:
        """Returns the JSON form of a value: its registered name and its fields."""
        return {"name": self.name_of(value), **dataclasses.asdict(value)}

    def build(self, spec: Mapping[str, Any], *positional: Any, also_accepted: Iterable[str] = ()) -> Any:
        """Returns the value that a JSON form describes; the inverse of ``describe``.

        Args:
            spec: ``name`` and settings.
            positional: what the constructor takes besides settings.
            also_accepted: keys that may stand beside the settings where the spec comes from, for the hint in an error.

        Raises:
            SettingError: the spec has no name.
            UnknownNameError: the name, or one of the settings, does not exist.
            SettingError: the constructor refuses them.
        """
        name = spec.get("name")
        if not isinstance(name, str):
            raise SettingError(f"{self.group}: a plugin is given by its name, such as {next(iter(self), 'NAME')!r}, got name={name!r}")
        settings = {key: tuple(v) if isinstance(v, list) else v for key, v in spec.items() if key != "name"}
        plugin: Any = self[name]
        accepted = list(fields_of(plugin))[len(positional) :]
        for key in settings:
            if key not in accepted:
                raise UnknownNameError(
                    f"{self.group} {name!r} has no setting {key!r} (it has: {', '.join(accepted) or 'none'})"
                    f"{nearest(key, [*accepted, *also_accepted])}"
                )
        try:
            return plugin(*positional, **settings)
        except MatchlibError:
            raise
        except (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
            shown = ", ".join(f"{key}={value!r}" for key, value in settings.items())
            why = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise SettingError(f"{self.group} {name!r} cannot be made with {shown or 'its defaults'}: {why}") from error


def _always(reference: Any) -> bool:
    del reference
    return True


@dataclass(frozen=True)
class Metric:
    """A score of samples against a reference, called as ``metric(reference, samples)``.

    Args:
        function: maps a ``matchlib.evaluation.reference.Reference`` and a ``PointSet`` of samples to a number.
        better: -1 where lower is better, 1 where higher is, 0 where neither.
        applies: whether the metric makes sense for a reference; it is left out of reports otherwise.
        error: the standard error of a single value, from the same arguments; None where none is known.
    """

    function: Callable[[Any, Any], float]
    better: int = -1
    applies: Callable[[Any], bool] = _always
    error: Callable[[Any, Any], float] | None = None

    def __call__(self, reference: Any, samples: Any) -> float:
        """Returns the score of samples: a set of points, or a tensor or array ``(n, *event)`` in model units."""
        return float(self.function(reference, reference.points(samples)))


class MetricRegistry(Registry[Metric]):
    """The registry of metrics: plain functions, with what a report needs to know of them."""

    def register(
        self,
        name: str,
        *,
        better: int = -1,
        applies: Callable[[Any], bool] = _always,
        error: Callable[[Any, Any], float] | None = None,
    ) -> Callable[[P], P]:
        """Returns a decorator that registers a function ``(reference, samples) -> float`` and returns it.

        Args:
            name: as it is asked for; the key in a report has underscores.
            better, applies, error: as in ``Metric``.
        """
        return lambda function: self._add(name, function, Metric(function, better, applies, error))  # type: ignore[arg-type]


couplings: Registry[type[Coupling]] = Registry("couplings")
interpolants: Registry[type[Interpolant]] = Registry("interpolants")
objectives: Registry[type[Objective]] = Registry("objectives")
families: Registry[type[Family]] = Registry("families")
students: Registry[type[Student]] = Registry("students")
losses: Registry[type[DistillationLoss]] = Registry("losses")
networks: Registry[Any] = Registry("networks")
datasets: Registry[Any] = Registry("datasets")
codecs: Registry[type[Codec]] = Registry("codecs")
samplers: Registry[type[Sampler]] = Registry("samplers")
metrics = MetricRegistry("metrics")
tasks: Registry[type[Task]] = Registry("tasks")
exports: Registry[Any] = Registry("exports", home="exporting")
trackers: Registry[type[Tracker]] = Registry("trackers")

_REGISTRIES = (
    couplings,
    interpolants,
    objectives,
    families,
    students,
    losses,
    networks,
    datasets,
    codecs,
    samplers,
    metrics,
    tasks,
    trackers,
    exports,
)
ALL: dict[str, Registry[Any]] = {registry.group: registry for registry in _REGISTRIES}
