"""Laws of couplings."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from hypothesis import strategies as st

from matchlib.errors import DataError
from matchlib.registries import couplings
from matchlib.testing.law import law
from matchlib.testing.strategies import batch_for, generators, shapes

several = st.sampled_from([2, 3, 5, 8])


@law("couplings", tolerance=0.0)
def data_and_labels_are_kept(name: str, data: st.DataObject) -> float:
    """The pair's data are the batch's data in some order, and each keeps its own label."""
    batch = batch_for(data.draw(several), data.draw(shapes), data.draw(generators()))
    pair = couplings[name]().pair(batch, generator=data.draw(generators()))
    assert pair.label is not None
    assert batch.label is not None
    for value, label in zip(pair.data, pair.label, strict=True):
        match = [(value == x).all() and label == y for x, y in zip(batch.data, batch.label, strict=True)]
        if not any(match):
            return 1.0
    return (pair.data.sum() - batch.data.sum()).abs().item() > 1e-9


@law("couplings", tolerance=1e-12)
def gradient_reaches_the_data(name: str, data: st.DataObject) -> float:
    """Each entry of the data enters the pair once: the gradient of the sum is one everywhere."""
    batch = batch_for(data.draw(several), data.draw(shapes), data.draw(generators()))
    x = batch.data.clone().requires_grad_(True)
    pair = couplings[name]().pair(replace(batch, data=x), generator=data.draw(generators()))
    (gradient,) = torch.autograd.grad(pair.data.sum() + 0 * pair.source.sum(), x)
    return (gradient - 1).abs().max().item()


@law("couplings", tolerance=5.0, examples=5, where=lambda name: couplings[name]().gaussian_source)
def a_declared_gaussian_is_one(name: str, data: st.DataObject) -> float:
    """If ``gaussian_source`` is declared, the source is standard normal and uncorrelated with the data, within 5 standard errors."""
    coupling = couplings[name]()
    generator = data.draw(generators())
    pair = coupling.pair(batch_for(4000, (1,), generator), generator=generator)
    z, x = pair.source, pair.data
    root = len(z) ** 0.5
    offsets = (z.mean() * root, (z.var() - 1) * root / 2**0.5, (z * x).mean() * root / x.std())
    return max(abs(offset.item()) for offset in offsets)


@law("couplings", tolerance=1e-9, where=lambda name: couplings[name]().reads_source)
def empirical_sources_are_kept(name: str, data: st.DataObject) -> float:
    """A coupling that reads sources uses each of the batch's sources once."""
    coupling = couplings[name]()
    batch = batch_for(data.draw(several), (2,), data.draw(generators()))
    pair = coupling.pair(batch, generator=data.draw(generators()))
    assert batch.source is not None
    return (pair.source.sort(0).values - batch.source.sort(0).values).abs().max().item()


@law("couplings", tolerance=5.0, examples=5, where=lambda name: couplings[name]().reads_source and not couplings[name]().paired)
def unpaired_sources_are_independent(name: str, data: st.DataObject) -> float:
    """Unless it keeps pairs, a coupling gives each sample a source that is independent of it, though the data set's own is not."""
    n, generator = 4000, data.draw(generators())
    batch = batch_for(n, (1,), generator)
    pair = couplings[name]().pair(replace(batch, source=batch.data + 0.1), generator=generator)
    x, z = ((v - v.mean()) / v.std() for v in (pair.data, pair.source))
    return (x * z).mean().abs().item() * n**0.5


@law("couplings", tolerance=0.0, examples=5)
def seeds_decide(name: str, data: st.DataObject) -> float:
    """The same generator state gives the same pair."""
    coupling, seed = couplings[name](), data.draw(st.integers(0, 2**31))
    batch = batch_for(4, (2,), data.draw(generators()))
    first, second = (coupling.pair(batch, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    return (first.source - second.source).abs().max().item()


@law("couplings", tolerance=1e-9, where=lambda name: name == "minibatch-ot")
def transport_is_cheapest(name: str, data: st.DataObject) -> float:
    """The mean squared distance of optimally coupled pairs is that of the best permutation of the batch, so at most the independent one."""
    batch = batch_for(data.draw(st.sampled_from([2, 3, 4, 5])), (2,), data.draw(generators()))
    pair = couplings[name]().pair(batch, generator=data.draw(generators()))
    assert batch.source is not None
    costs = [(batch.data - batch.source[list(order)]).square().sum().item() for order in itertools.permutations(range(len(batch.data)))]
    return (pair.data - pair.source).square().sum().item() - min(costs)


@law("couplings", tolerance=0.0, examples=10)
def a_batch_of_one_is_paired(name: str, data: st.DataObject) -> float:
    """A batch of one gives a pair of the batch's shape, or is refused in one line because a sample may not meet its own source."""
    batch = batch_for(1, data.draw(shapes), data.draw(generators()))
    try:
        pair = couplings[name]().pair(batch, generator=data.draw(generators()))
    except DataError:
        return 0.0
    return float(pair.source.shape != batch.data.shape or not torch.equal(pair.data, batch.data))
