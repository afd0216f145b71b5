"""Laws of networks, data sets and metrics."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from matchlib.algebra.records import Condition
from matchlib.data.dataset import Dataset
from matchlib.errors import IncompatibleError
from matchlib.evaluation.reference import Extractor, Reference
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
    """The answer has the state's shape and type, and each sample's answer is that to the sample alone.

    Advice: Return the state's shape and type, and let no sample see another: no batch norm, no statistics over the batch.
    """
    network, state, time, condition = _network(name, data)
    answer = network(state, time, condition)
    if answer.shape != state.shape or answer.dtype != state.dtype:
        return 1.0
    label, source = (len(state) * [None] if x is None else x.split(1) for x in (condition.label, condition.source))
    alone = [network(*one) for one in zip(state.split(1), time.split(1), map(Condition, label, source), strict=True)]
    return (answer - torch.cat(alone)).abs().max().item()


@law("networks", tolerance=0.0, examples=8, where=_trained)
def every_weight_learns(name: str, data: st.DataObject) -> float:
    """The gradient reaches every parameter and the state; labels and source change the answer where there are any.

    Advice: A parameter, the state or the label does not reach the answer: use it in `forward`, or do not create it.
    """
    network, state, time, condition = _network(name, data)
    state = state.requires_grad_(True)
    answer = network(state, time, condition)
    gradients = torch.autograd.grad(answer.square().sum(), [state, *network.parameters()], allow_unused=True)
    dead = any(g is None or not bool(g.abs().sum() > 0) for g in gradients)
    deaf = condition.label is not None and torch.equal(answer, network(state, time, Condition(None, condition.source)))
    return float(dead or deaf)


@law("datasets", tolerance=1e-4, examples=1)
def data_are_normalised_once(name: str, data: st.DataObject) -> float:
    """Training data have mean 0 and mean square 1; splits, shapes and values are the same every time; labels fit.

    Advice: Build the data set with `Dataset.from_arrays` from raw arrays and a fixed seed; do not normalise them before.
    """
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
    """No held-out sample is a training sample (data sets of distinct samples), and both splits are there.

    Advice: A held-out sample is a training sample: remove duplicates, or give held-out indices that training does not have.
    """
    dataset: Dataset = datasets[name]()
    train = {row.tobytes() for row in dataset.train.data.numpy()}
    shared = sum(row.tobytes() in train for row in dataset.held_out.data.numpy())
    return shared / len(dataset.held_out.data) if train else 1.0


class Halves(Extractor):
    """Features of vectors that are the vectors, and two classes: on which side of the middle of the first number they lie."""

    name, classes = "halves", 2

    def classify(self, events: torch.Tensor) -> torch.Tensor:
        return (events[:, 0] > 0.5).long()


def _scored(name: str, x: np.ndarray, samples: np.ndarray) -> float:
    """The score of samples against data of which the last third is held out."""
    n = len(x) // 3
    reference = Reference(torch.as_tensor(x[: 2 * n]), torch.as_tensor(x[2 * n :]), Halves(), n)
    assume(metrics[name].applies(reference))
    return metrics[name](reference, samples)


@law("metrics", tolerance=1e-9, examples=4)
def metrics_do_not_care_about_order(name: str, data: st.DataObject) -> float:
    """A score is finite and does not depend on the order of the samples.

    Advice: Score samples as a set, with finite numbers: no random subset without a fixed seed, no division by zero.
    """
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    x, samples = rng.standard_normal((300, 2)), rng.standard_normal((100, 2))
    score = _scored(name, x, samples)
    return abs(score - _scored(name, x, samples[rng.permutation(100)])) if np.isfinite(score) else 1.0


@law("metrics", tolerance=0.0, examples=4)
def metrics_tell_far_from_near(name: str, data: st.DataObject) -> float:
    """Samples of another law score otherwise than samples of the data's law, by more than two samples of that differ.

    Advice: The score hardly changes for samples of another distribution: compare the samples with `reference.train`, all of them.
    """
    seed = data.draw(st.integers(0, 2**31))
    x = np.random.default_rng(0).standard_normal((600, 2))
    drawn = [np.random.default_rng(seed + i).standard_normal((1000, 2)) for i in (0, 1)]  # so many that a share of 5% is told from none
    near, other, far = (_scored(name, x, samples) for samples in (*drawn, drawn[0] + 4.0))
    return float(not abs(far - near) > abs(other - near))
