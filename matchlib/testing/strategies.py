"""What hypothesis draws: times, shapes, models, laws of data, hyper-parameters."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from matchlib.algebra.convert import determines, spanning_rows
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import Times
from matchlib.errors import IncompatibleError
from matchlib.plugins.losses.realuid import RealUID
from matchlib.registries import couplings, interpolants, objectives
from matchlib.testing.gaussian import GaussianLaw

__all__ = ["batch_for", "gaussian_laws", "generators", "law_for", "models", "readable", "realuids", "seen", "shapes", "times_in"]

INSIDE = Times(0.02, 0.98)  # where every interpolant and prediction is finite and well scaled

shapes = st.sampled_from([(1,), (3,), (2, 2), (1, 2, 3)])
sizes = st.sampled_from([1, 2, 3, 5])


def generators() -> st.SearchStrategy[torch.Generator]:
    """Seeded generators."""
    return st.integers(0, 2**32 - 1).map(lambda seed: torch.Generator().manual_seed(seed))


def times_in(model: MatchingModel, count: int = 3) -> st.SearchStrategy[Tensor]:
    """Float64 times inside a model's interval, shape ``(count,)``."""
    inner = st.floats(model.times.low, model.times.high, exclude_min=True, exclude_max=True)
    return st.lists(inner, min_size=count, max_size=count).map(lambda t: torch.tensor(t, dtype=torch.float64))


def _try(make: Any) -> Any:
    try:
        return make()
    except IncompatibleError:
        return None


@lru_cache(maxsize=1)
def all_models() -> tuple[tuple[str, str, str, MatchingModel], ...]:
    """Every composition of registered pieces with default settings that is a model, with the names of its pieces."""
    found = []
    for c in couplings:
        for i in interpolants:
            for o in objectives:
                for sees in (False, True):
                    parts = (couplings[c](), interpolants[i](), objectives[o](), INSIDE, sees)
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


def gaussian_laws() -> st.SearchStrategy[GaussianLaw]:
    """Laws of independent data and standard normal source."""
    return st.builds(GaussianLaw, st.floats(-2, 2), st.floats(0.3, 2))


@st.composite
def law_for(draw: st.DrawFn, model: MatchingModel) -> GaussianLaw:
    """A Gaussian law that the model's coupling keeps: correlated only if it keeps pairs."""
    law = draw(gaussian_laws())
    if model.coupling.gaussian_source or not model.coupling.reads_source:
        return law
    law = replace(law, source_std=draw(st.floats(0.3, 2)))
    return replace(law, correlation=draw(st.floats(-0.8, 0.8))) if model.coupling.paired else law


@st.composite
def realuids(draw: st.DrawFn, **fixed: Any) -> RealUID:
    """RealUID losses over the whole domain, without per-sample weight."""
    tied = draw(st.booleans())
    alpha = draw(st.floats(0.1, 0.95)) if tied else draw(st.floats(0.1, 8))
    gamma = None if tied else draw(st.floats(0.05, 0.95))
    return RealUID(**{"alpha": alpha, "beta": draw(st.floats(0.1, 8)), "gamma": gamma, "weight_power": 0.0} | fixed)


def batch_for(size: int, shape: tuple[int, ...], generator: torch.Generator) -> Any:
    """A batch of random data, sources and labels, float64."""
    from matchlib.algebra.records import Batch

    data, source = torch.randn(2, size, *shape, dtype=torch.float64, generator=generator)
    return Batch(data, source, torch.randint(3, (size,), generator=generator))
