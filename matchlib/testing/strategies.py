"""What hypothesis draws: times, shapes, models, distributions of data, settings."""

from __future__ import annotations

import operator
from dataclasses import replace
from functools import cache, lru_cache
from itertools import product
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from matchlib.algebra.convert import determines, spanning_rows
from matchlib.algebra.coupling import Coupling
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.records import Batch
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import IncompatibleError, SettingError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.plugins.losses import RealUID
from matchlib.registry import Registry, couplings, fields_of, interpolants, objectives
from matchlib.testing.world import World

__all__ = [
    "batch_for",
    "exactly_known",
    "generators",
    "is_row",
    "joint_models",
    "mixtures",
    "models",
    "moderate_times",
    "moderate_times_of",
    "plugins_of",
    "readable",
    "realuids",
    "seen",
    "shapes",
    "times_in",
    "variants",
    "worlds",
]

INSIDE = TimeDistribution(0.02, 0.98)  # where every interpolant and prediction is finite and well scaled

shapes = st.sampled_from([(1,), (3,), (2, 2), (1, 2, 3)])
sizes = st.sampled_from([1, 2, 3, 5])


def generators() -> st.SearchStrategy[torch.Generator]:
    """Seeded generators."""
    return st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


def times_in(model: MatchingModel, count: int = 3) -> st.SearchStrategy[Tensor]:
    """Float64 times inside a model's interval, shape ``(count,)``."""
    inner = st.floats(model.times.t_min, model.times.t_max, exclude_min=True, exclude_max=True)
    return st.lists(inner, min_size=count, max_size=count).map(lambda t: torch.tensor(t, dtype=torch.float64))


def _try(make: Any) -> Any:
    try:
        return make()
    except IncompatibleError:
        return None


def plugins_of(registry: Registry[Any], name: str) -> st.SearchStrategy[Any]:
    """The plugin with its default settings, or with one of its ``variants``."""
    return st.sampled_from([registry[name](**settings) for settings in variants(registry[name])])


def variants(plugin: Any) -> list[dict[str, Any]]:
    """The settings that laws try: the defaults, each setting at other values, and the plugin's own ``examples``.

    Other values are half and twice a number, the other choices of a ``Literal`` and of a boolean; those outside the bounds of an annotation
    (``Annotated[float, Gt(0)]``), or refused by the constructor with a SettingError, are left out.
    """
    hints = _hints(plugin)
    others = [{key: value} for key, p in fields_of(plugin).items() for value in _others(p.default, hints.get(key))]
    return [{}, *(settings for settings in others if _accepted(plugin, settings)), *getattr(plugin, "examples", ())]


def _hints(plugin: Any) -> dict[str, Any]:
    try:
        return get_type_hints(plugin, include_extras=True)
    except (NameError, TypeError):  # of a class inside a function, names may be out of reach
        return {}


def _accepted(plugin: Any, settings: dict[str, Any]) -> bool:
    try:
        plugin(**settings)
    except SettingError:
        return False
    return True


def _others(default: Any, hint: Any) -> list[Any]:
    """Values of a setting that are not its default."""
    hint, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if choice != default]
    if isinstance(default, bool):
        return [not default]
    if not isinstance(default, int | float):
        return []
    bounds = [bound for note in notes for bound in getattr(note, "metadata", (note,))]  # as they are, or in pydantic's Field
    halves = (default // 2, default * 2) if isinstance(default, int) and hint is not float else (default / 2, default * 2)
    ends = [type(default)(end) for bound in bounds for end in (getattr(bound, "ge", None), getattr(bound, "le", None)) if end is not None]
    tried = ([x for x in values if x != default and _inside(x, bounds)] for values in (halves, ends, (type(default)(1),)))
    return next((values for values in tried if values), [])


def _inside(x: float, bounds: list[Any]) -> bool:
    limits = {"ge": operator.ge, "gt": operator.gt, "le": operator.le, "lt": operator.lt}
    stated = ((within, getattr(bound, key, None)) for bound in bounds for key, within in limits.items())
    return all(limit is None or within(x, limit) for within, limit in stated)


def is_row(name: str) -> bool:
    """Whether an objective is a single row."""
    return len(objectives[name]().heads) == 1


@cache
def _compositions(coupling: Any, interpolant: Any, objective: Any) -> tuple[MatchingModel, ...]:
    """Every model of one row that three plugins make, the interpolant with its variants."""
    head = objective()
    if len(head.heads) > 1:
        return ()
    parts = [(coupling(), interpolant(**settings), head, INSIDE, sees) for settings in variants(interpolant) for sees in (False, True)]
    tried = [_try(lambda one=one: MatchingModel(*one)) for one in parts]
    return tuple(model for model in tried if model is not None)


def models(**named: str) -> st.SearchStrategy[MatchingModel]:
    """Models that use the named pieces: ``models(interpolant="linear")``; a plugin that cannot be imported is in none."""
    groups = (("coupling", couplings), ("interpolant", interpolants), ("objective", objectives))
    plugins = ([registry[named[key]]] if key in named else _plugins(registry) for key, registry in groups)
    return st.sampled_from([model for pieces in product(*plugins) for model in _compositions(*pieces)])


def _plugins(registry: Registry[Any]) -> list[Any]:
    found = (_try(lambda name=name: registry[name]) for name in registry)
    return [plugin for plugin in found if plugin is not None and (registry is not interpolants or _has_schedule(plugin))]


@cache
def _has_schedule(interpolant: Any) -> bool:
    """Whether an interpolant can be asked at all; the laws of the others leave it out, and its own say what is wrong."""
    try:
        interpolant().coefficients(torch.tensor([0.5], dtype=torch.float64))
    except Exception:  # whatever a plugin of somebody else's raises
        return False
    return True


@lru_cache(maxsize=4096)
def readable(model: MatchingModel, wanted: str) -> bool:
    """Whether a model's prediction determines another."""
    return determines(model, objectives[wanted]())


@lru_cache(maxsize=4096)
def seen(model: MatchingModel, wanted: str) -> bool:
    """Whether what the field sees determines a prediction without any network."""
    return spanning_rows(model, (), objectives[wanted]()) is not None


def _covariances(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random covariances, shape ``(count, size, size)``, standard deviations between .3 and 2 along random axes."""
    axes, _ = torch.linalg.qr(torch.randn(count, size, size, dtype=torch.float64, generator=generator))
    std = 0.3 * (2 / 0.3) ** torch.rand(count, size, dtype=torch.float64, generator=generator)
    return axes @ torch.diag_embed(std.square()) @ axes.mT


@st.composite
def joint_models(draw: st.DrawFn, name: str) -> MatchingModel:
    """Models of an objective with several heads, each of them a row that the model has."""
    one = draw(models())
    model = _try(lambda: replace(one, objective=draw(plugins_of(objectives, name))))
    assume(model is not None)
    return model


@st.composite
def mixtures(draw: st.DrawFn, coupling: Coupling, *, dimension: int = 1, components: int = 3, classes: int = 1) -> Mixture:
    """Laws of up to ``components`` Gaussians a class that a coupling keeps: pairs are correlated only if the coupling keeps pairs."""
    k = draw(st.integers(1, components))
    generator = draw(generators())
    weights = 0.2 + torch.rand(classes, k, dtype=torch.float64, generator=generator)
    mean = 4 * torch.rand(classes, k, 2, dimension, dtype=torch.float64, generator=generator) - 2
    covariance = torch.zeros(classes, k, 2, dimension, 2, dimension, dtype=torch.float64)
    if coupling.paired:
        covariance = _covariances(classes * k, 2 * dimension, generator).reshape(covariance.shape)
    else:
        mean[:, :, 1] = mean[0, 0, 1].clone()
        covariance[:, :, 0, :, 0] = _covariances(classes * k, dimension, generator).reshape(classes, k, dimension, dimension)
        covariance[:, :, 1, :, 1] = _covariances(1, dimension, generator)
    return Mixture(weights / weights.sum(), mean, covariance).coupled(coupling)


def exactly_known(model: MatchingModel) -> bool:
    """Whether the coupling keeps a Gaussian mixture one (a transport plan does not)."""
    return model.coupling.independent or model.coupling.paired


@st.composite
def realuids(draw: st.DrawFn, **fixed: Any) -> RealUID:
    """RealUID losses over the whole domain, without per-sample weight."""
    tied = draw(st.booleans())
    alpha = draw(st.floats(0.1, 0.95)) if tied else draw(st.one_of(st.just(1.0), st.floats(0.1, 8)))
    gamma = None if tied else draw(st.floats(0.05, 0.95))
    return RealUID(**{"alpha": alpha, "beta": draw(st.floats(0.1, 8)), "gamma": gamma, "weight_power": 0.0} | fixed)


def batch_for(size: int, shape: tuple[int, ...], generator: torch.Generator) -> Batch:
    """A batch of random data, sources and labels, float64."""
    data, source = torch.randn(2, size, *shape, dtype=torch.float64, generator=generator)
    return Batch(data, source, torch.randint(3, (size,), generator=generator))


def moderate_times(model: MatchingModel) -> st.SearchStrategy[float]:
    """Times at which noise and signal are of one order, so that no quantity of a law is a difference of huge ones."""
    return st.sampled_from(moderate_times_of(model))


def moderate_times_of(model: MatchingModel) -> list[float]:
    """The probed times at which (b^2 + c^2)/a^2 lies between 1/20 and 20."""
    at = model.probe()
    ratio = (torch.as_tensor(at.variance) / torch.as_tensor(at.a).square()).expand(at.time.shape)
    return at.time[(ratio > 0.05) & (ratio < 20)].tolist()


@st.composite
def worlds(
    draw: st.DrawFn, *, space: str | None = None, gaussian: bool = False, components: int = 2, wrong_teacher: bool | None = None
) -> World:
    """Worlds of any model whose field predicts ``space``, the generated law another than the real one.

    Args:
        space: name of an objective; None for any.
        gaussian: only models with an unseen independent Gaussian source.
        components: of each law, at most.
        wrong_teacher: whether the teacher is that of a third law; None for either.
    """
    fitting = models() if space is None else models(objective=space)
    model = draw(fitting.filter(lambda m: exactly_known(m) and (m.gaussian or not gaussian)))
    real = draw(mixtures(model.coupling, components=components))
    made = draw(mixtures(model.coupling, components=components)).shifted(draw(st.floats(0.3, 1.0)))
    wrong = draw(st.booleans()) if wrong_teacher is None else wrong_teacher
    teacher = GaussianField(model, draw(mixtures(model.coupling, components=components)).shifted(-0.2)) if wrong else None
    return World(model, real, made, draw(moderate_times(model)), teacher)
