"""Laws of couplings."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from hypothesis import strategies as st

from matchlib.algebra.records import Batch
from matchlib.errors import DataError
from matchlib.registry import couplings
from matchlib.testing.law import law
from matchlib.testing.strategies import batch_for, generators, models, shapes

several = st.sampled_from([2, 3, 5, 8])


@law("couplings", tolerance=0.0)
def data_and_labels_are_kept(name: str, data: st.DataObject) -> float:
    """The pair's data are the batch's data in some order, and each keeps its own label.

    Advice: `pair` must return every sample of the batch once, with its own label: permute the sources, never the data alone.
    """
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
    """Each entry of the data enters the pair once: the gradient of the sum is one everywhere.

    Advice: `pair` must pass `batch.data` on as it is: no detach, copy or rounding of the data, or a student learns nothing.
    """
    batch = batch_for(data.draw(several), data.draw(shapes), data.draw(generators()))
    x = batch.data.clone().requires_grad_(True)
    pair = couplings[name]().pair(replace(batch, data=x), generator=data.draw(generators()))
    (gradient,) = torch.autograd.grad(pair.data.sum() + 0 * pair.source.sum(), x)
    return (gradient - 1).abs().max().item()


@law("couplings", tolerance=5.0, examples=5, where=lambda name: couplings[name]().gaussian_source)
def a_declared_gaussian_is_one(name: str, data: st.DataObject) -> float:
    """If ``gaussian_source`` is declared, the source is standard normal and independent of the data, within 5 standard errors.

    By mean, variance and Kolmogorov-Smirnov statistic of the source, and by its correlation and that of the squares with the data.

    Advice: Set `gaussian_source = False`, or draw the source from N(0, I) independently of the data.
    """
    coupling = couplings[name]()
    generator = data.draw(generators())
    pair = coupling.pair(batch_for(4000, (1,), generator), generator=generator)
    z, x = pair.source, pair.data
    root = len(z) ** 0.5
    x = (x - x.mean()) / x.std()
    squares = (z.square() - 1) * (x.square() - 1)
    offsets = (z.mean() * root, (z.var() - 1) * root / 2**0.5, (z * x).mean() * root, squares.mean() * root / squares.std())
    below = torch.special.ndtr(z.flatten().sort().values) - (torch.arange(len(z)) + 0.5) / len(z)
    kolmogorov = 5 / 2.74 * root * below.abs().max()  # sqrt(n) D exceeds 2.74 as rarely as a normal number 5
    return max(abs(offset.item()) for offset in (*offsets, kolmogorov))


@law("couplings", tolerance=1e-9, where=lambda name: couplings[name]().reads_source)
def empirical_sources_are_kept(name: str, data: st.DataObject) -> float:
    """A coupling that reads sources uses each of the batch's sources once.

    Advice: `pair` must use each of `batch.source` once: return a permutation of them, or set `reads_source = False`.
    """
    coupling = couplings[name]()
    batch = batch_for(data.draw(several), (2,), data.draw(generators()))
    pair = coupling.pair(batch, generator=data.draw(generators()))
    assert batch.source is not None
    return (pair.source.sort(0).values - batch.source.sort(0).values).abs().max().item()


@law("couplings", tolerance=5.0, examples=5, where=lambda name: couplings[name]().independent)
def independent_sources_are_independent(name: str, data: st.DataObject) -> float:
    """A coupling that says so gives each sample a source that is independent of it, though the data set's own is not.

    Advice: Set `independent = False`, or draw the source without regard to the data (a sample may not meet its own source).
    """
    n, generator = 4000, data.draw(generators())
    batch = batch_for(n, (1,), generator)
    pair = couplings[name]().pair(replace(batch, source=batch.data + 0.1), generator=generator)
    x, z = ((v - v.mean()) / v.std() for v in (pair.data, pair.source))
    return (x * z).mean().abs().item() * n**0.5


@law("couplings", tolerance=5.0, examples=5)
def points_beside_others_are_points(name: str, data: st.DataObject) -> float:
    """Data placed beside other data's point have sources as correlated with them as on points of their own, within 5 standard errors.

    Advice: `independent` or `paired` is declared wrongly: the source of one sample was reused for another that it does not belong to.
    """
    n, generator, model = 2000, data.draw(generators()), data.draw(models(coupling=name))
    one, other = (batch_for(n, (1,), generator) for _ in range(2))
    assert other.source is not None
    other = replace(other, source=other.data + 0.1 * other.source)
    beside = model.sample_path(other, generator=generator, like=model.sample_path(one, generator=generator))
    alone = model.sample_path(other, generator=generator)
    found = [torch.corrcoef(torch.cat([point.data, point.source], 1).mT)[0, 1] for point in (beside, alone)]
    return (found[0] - found[1]).abs().item() * (n / 2) ** 0.5


@law("couplings", tolerance=0.0, examples=5)
def seeds_decide(name: str, data: st.DataObject) -> float:
    """The same generator state gives the same pair.

    Advice: Draw every random number from the `generator` that is passed in, none from torch's or numpy's global state.
    """
    coupling, seed = couplings[name](), data.draw(st.integers(0, 2**31))
    batch = batch_for(4, (2,), data.draw(generators()))
    first, second = (coupling.pair(batch, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    return (first.source - second.source).abs().max().item()


@law("couplings", tolerance=1e-9, where=lambda name: name.startswith("minibatch-ot"))
def transport_is_cheapest(name: str, data: st.DataObject) -> float:
    """No exchange of sources among samples of one class and block lowers the mean squared distance of optimally coupled pairs.

    Advice: The plan within a block and class is not the cheapest for the squared distance: check the cost and the order it is applied in.
    """
    coupling, size = couplings[name](), data.draw(st.sampled_from([2, 3, 4, 5, 8]))
    pair = coupling.pair(batch_for(size, (2,), data.draw(generators())), generator=data.draw(generators()))
    assert pair.label is not None
    gains = [0.0]
    for block in torch.arange(size).split(coupling.plan(size)):  # type: ignore[attr-defined]
        for members in (block[pair.label[block] == label] for label in pair.label.unique()):
            orders = [list(order) for order in itertools.permutations(range(len(members)))]
            costs = [(pair.data[members] - pair.source[members][order]).square().sum().item() for order in orders]
            gains.append(costs[0] - min(costs))
    return max(gains)


@law("couplings", tolerance=5.0, examples=5, where=lambda name: not couplings[name]().paired and name != "mirror")
def sources_do_not_know_the_label(name: str, data: st.DataObject) -> float:
    """Unless it keeps pairs, a coupling's source is independent of the label, though data and the data set's sources are not.

    Advice: The source depends on the label: make a plan for each class, or declare `paired = True` if pairs belong together.
    """
    n, generator = 2000, data.draw(generators())
    batch = batch_for(n, (1,), generator)
    assert batch.label is not None and batch.source is not None
    moved = 2.0 * batch.label.double()[:, None]
    pair = couplings[name]().pair(Batch(batch.data + moved, batch.source + moved, batch.label), generator=generator)
    assert pair.label is not None
    x, y = ((v - v.mean()) / v.std() for v in (pair.source[:, 0], pair.label.double()))
    return (x * y).mean().abs().item() * n**0.5


@law("couplings", tolerance=5.0, examples=10)
def declared_relations_vanish(name: str, data: st.DataObject) -> float:
    """A row that a coupling declares to vanish given the state is uncorrelated with the state and with its square, on every path.

    Advice: `relations` names a row whose mean given the state is not zero: return only rows that vanish, or none.
    """
    coupling, n, generator = couplings[name](), 4000, data.draw(generators())
    model = data.draw(models(coupling=name).filter(lambda m: not m.sees_source))
    pair = coupling.pair(batch_for(n, (1,), generator), generator=generator)
    t = data.draw(st.floats(model.times.t_min, model.times.t_max)) * torch.ones(n, dtype=torch.float64)
    point = model.interpolate(pair, t, generator=generator)
    worst = 0.0
    for row in coupling.relations(point.coefficients, source_seen=False):
        value = row(point.data, point.source, point.noise)
        if value.std() > 1e-9:  # an identity, not only one of means, where it is zero throughout
            x = value / value.std()
            worst = max(worst, *((x * (y - y.mean()) / y.std()).mean().abs().item() * n**0.5 for y in (point.state, point.state.square())))
    return worst


@law("couplings", tolerance=0.0, examples=10)
def a_batch_of_one_is_paired(name: str, data: st.DataObject) -> float:
    """A batch of one gives a pair of the batch's shape, or is refused in one line because a sample may not meet its own source.

    Advice: `pair` must return the batch's shape for one sample, or raise DataError where one sample cannot be paired.
    """
    batch = batch_for(1, data.draw(shapes), data.draw(generators()))
    try:
        pair = couplings[name]().pair(batch, generator=data.draw(generators()))
    except DataError:
        return 0.0
    return float(pair.source.shape != batch.data.shape or not torch.equal(pair.data, batch.data))
