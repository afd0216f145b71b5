"""Laws of networks, data sets and metrics."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from matchlib.algebra.records import Condition
from matchlib.data.dataset import Dataset
from matchlib.errors import IncompatibleError
from matchlib.evaluation.reference import Metric, Reference
from matchlib.fields.preconditioned import ExactField, NetworkSpec
from matchlib.registry import datasets, metrics, networks
from matchlib.testing.law import law
from matchlib.testing.strategies import generators, sizes

events = st.sampled_from([(3,), (2, 5), (1, 8, 8), (3, 7, 5)])


def _network(name: str, data: st.DataObject) -> tuple:
    signature = NetworkSpec(data.draw(events), data.draw(st.sampled_from([None, 4])), data.draw(st.booleans()))
    torch.manual_seed(0)
    try:
        network = networks[name](signature).double()
    except IncompatibleError:
        assume(False)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    size, generator = data.draw(sizes), data.draw(generators())
    state, source = torch.randn(2, size, *signature.shape, dtype=torch.float64, generator=generator)
    label = None if signature.classes is None else torch.randint(4, (size,), generator=generator)
    time = torch.rand(size, dtype=torch.float64, generator=generator)
    return network, state, time, Condition(label, source if signature.sees_source else None)


def _trained(name: str) -> bool:
    return not issubclass(networks[name], ExactField)


@law("networks", tolerance=1e-9, examples=12, where=_trained)
def networks_answer_sample_by_sample(name: str, data: st.DataObject) -> float:
    """The answer has the state's shape and type, and each sample's answer is that to the sample alone."""
    network, state, time, condition = _network(name, data)
    answer = network(state, time, condition)
    if answer.shape != state.shape or answer.dtype != state.dtype:
        return 1.0
    first = Condition(*(None if x is None else x[:1] for x in (condition.label, condition.source)))
    return (answer[:1] - network(state[:1], time[:1], first)).abs().max().item()


@law("networks", tolerance=0.0, examples=8, where=_trained)
def every_weight_learns(name: str, data: st.DataObject) -> float:
    """The gradient reaches every parameter and the state; labels and source change the answer where there are any."""
    network, state, time, condition = _network(name, data)
    state = state.requires_grad_(True)
    answer = network(state, time, condition)
    gradients = torch.autograd.grad(answer.square().sum(), [state, *network.parameters()], allow_unused=True)
    dead = any(g is None or not bool(g.abs().sum() > 0) for g in gradients)
    deaf = condition.label is not None and torch.equal(answer, network(state, time, Condition(None, condition.source)))
    return float(dead or deaf)


@law("datasets", tolerance=1e-4, examples=1)
def data_are_normalised_once(name: str, data: st.DataObject) -> float:
    """Training data have mean 0 and mean square 1; splits, shapes and values are the same every time; labels fit."""
    first: Dataset
    first, second = datasets[name](), datasets[name]()
    x = first.train.data.double()
    same = torch.equal(first.train.data, second.train.data) and torch.equal(first.held_out.data, second.held_out.data)
    label = first.train.label
    fits = label is None or first.classes is None or (len(label) == len(x) and 0 <= int(label.min()) <= int(label.max()) < first.classes)
    source_fits = first.train.source is None or first.train.source.shape == first.train.data.shape
    return max(x.mean().abs().item(), (x.square().mean() - 1).abs().item(), float(not (same and fits and source_fits)))


@law("datasets", tolerance=0.0, examples=1)
def splits_share_no_sample(name: str, data: st.DataObject) -> float:
    """No held-out sample is a training sample (data sets of distinct samples), and both splits are there."""
    dataset: Dataset = datasets[name]()
    train = {row.tobytes() for row in dataset.train.data.numpy()}
    shared = sum(row.tobytes() in train for row in dataset.held_out.data.numpy())
    return shared / len(dataset.held_out.data) if train else 1.0


def _metric(name: str, shift: float, seed: int) -> float:
    """The score of 1,000 samples, so that a share of a twentieth is told from none."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 2))
    reference = Reference(x[:400], x[400:], lambda y: y, 200)
    assume(metrics[name].applies(reference))
    metric: Metric = metrics[name](reference)
    samples = np.random.default_rng(seed).standard_normal((1000, 2)) + shift
    metric.update(samples[:50])
    metric.update(samples[50:])
    return metric.compute()


@law("metrics", tolerance=1e-9, examples=4)
def metrics_do_not_care_about_order(name: str, data: st.DataObject) -> float:
    """A score is finite and does not depend on the order or on how samples arrive."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x = rng.standard_normal((300, 2))
    reference = Reference(x[:200], x[200:], lambda y: y, 100)
    assume(metrics[name].applies(reference))
    samples = rng.standard_normal((100, 2))
    whole, parts = metrics[name](reference), metrics[name](reference)
    whole.update(samples)
    for part in np.split(samples[rng.permutation(100)], 4):
        parts.update(part)
    return abs(whole.compute() - parts.compute()) if np.isfinite(whole.compute()) else 1.0


@law("metrics", tolerance=0.0, examples=4)
def metrics_tell_far_from_near(name: str, data: st.DataObject) -> float:
    """Samples of another law score otherwise than samples of the data's law, by more than two samples of that differ."""
    seed = data.draw(st.integers(0, 2**31))
    near, other, far = _metric(name, 0.0, seed), _metric(name, 0.0, seed + 1), _metric(name, 4.0, seed)
    return float(not abs(far - near) > abs(other - near))
