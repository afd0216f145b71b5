"""What hypothesis draws: times, shapes, models, laws of data, hyper-parameters."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from matchlib.algebra.convert import determines, spanning_rows
from matchlib.algebra.coupling import Coupling
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.records import Batch
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import IncompatibleError
from matchlib.fields.exact import GaussianField, Mixture
from matchlib.plugins.losses import RealUID
from matchlib.registry import Registry, couplings, interpolants, objectives
from matchlib.testing.world import World

__all__ = [
    "batch_for",
    "exactly_known",
    "generators",
    "is_row",
    "joint_models",
    "made",
    "mixtures",
    "models",
    "moderate_times",
    "moderate_times_of",
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


def made(registry: Registry[Any], name: str) -> st.SearchStrategy[Any]:
    """The plugin with its default settings, or with those that it names as examples."""
    return st.sampled_from([registry[name](**settings) for settings in variants(registry[name])])


def variants(plugin: Any) -> list[dict[str, Any]]:
    """The settings that laws try: the defaults, and the plugin's ``examples``."""
    return [{}, *getattr(plugin, "examples", ())]


def is_row(name: str) -> bool:
    """Whether an objective is a single row."""
    return len(objectives[name]().heads) == 1


def all_models() -> tuple[tuple[str, str, str, MatchingModel], ...]:
    """Every composition of registered pieces that is a model of one row, with the names of its pieces; interpolants with examples, too."""
    return _compositions(tuple(couplings), tuple(interpolants), tuple(name for name in objectives if is_row(name)))


@lru_cache(maxsize=4)
def _compositions(*names: tuple[str, ...]) -> tuple[tuple[str, str, str, MatchingModel], ...]:
    found = []
    for c in names[0]:
        for i, path in [(name, interpolants[name](**settings)) for name in names[1] for settings in variants(interpolants[name])]:
            for o, sees in product(names[2], (False, True)):
                parts = (couplings[c](), path, objectives[o](), INSIDE, sees)
                model = _try(lambda parts=parts: MatchingModel(*parts))
                if model is not None:
                    found.append((c, i, o, model))
    return tuple(found)


def models(**named: str) -> st.SearchStrategy[MatchingModel]:
    """Models that use the named pieces: ``models(interpolant="linear")``."""
    place = {"coupling": 0, "interpolant": 1, "objective": 2}
    fitting = [entry[3] for entry in all_models() if all(entry[place[key]] == name for key, name in named.items())]
    return st.sampled_from(fitting)


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
    model = _try(lambda: replace(one, objective=draw(made(objectives, name))))
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
