"""Couplings: what no law covers."""

from __future__ import annotations

import pytest
import torch

import matchlib
from matchlib.algebra.convert import conversion
from matchlib.algebra.records import Batch
from matchlib.errors import DataError
from matchlib.plugins.couplings import MinibatchOT

PAIRS = matchlib.couplings


class _Given(MinibatchOT):
    """Transport from the batch's own sources, block by block."""

    def source(self, batch: Batch, *, generator: torch.Generator) -> torch.Tensor:
        assert batch.source is not None
        return batch.source


def test_minibatch_ot_data_never_plans_a_sample_with_its_own_source() -> None:
    """Data in pairs: were a sample's own source in its plan, transport would find the pairs, and the setting would not be unpaired."""
    data = 10.0 * torch.arange(7.0)[:, None]
    for block in (1, 2, 3, 128):
        pair = PAIRS["minibatch-ot-data"](block=block).pair(Batch(data, data.clone()), generator=torch.Generator())
        assert not (pair.source == data).any()
        assert torch.equal(pair.source.sort(0).values, data)


def test_minibatch_ot_needs_labels_that_are_classes() -> None:
    batch = Batch(torch.randn(4, 2), torch.randn(4, 2), torch.randn(4, 3))
    with pytest.raises(DataError, match="labels must be classes"):
        PAIRS["minibatch-ot"]().pair(batch, generator=torch.Generator())


def test_minibatch_ot_keeps_missing_labels_and_blocks_apart() -> None:
    """A missing label is a class of its own: it is in no plan with the samples of another block or class."""
    generator = torch.Generator().manual_seed(0)
    data, source = torch.randn(2, 12, 2, generator=generator)
    label = torch.tensor([2, 0, -1, 1, -1, 2, -1, 1, 0, -1, 2, 1])
    pair = _Given(block=4).pair(Batch(data, source, label), generator=generator)
    for block in range(3):
        for kind in (-1, 0, 1, 2):
            members = [i for i in range(4 * block, 4 * block + 4) if label[i] == kind]
            assert {tuple(x) for x in pair.source[members].tolist()} == {tuple(x) for x in source[members].tolist()}


def test_mirror_joins_data_to_themselves() -> None:
    data = torch.randn(3, 2)
    pair = PAIRS["mirror"]().pair(Batch(data), generator=torch.Generator())
    assert torch.equal(pair.source, data)
    model = matchlib.MatchingModel(PAIRS["mirror"](), matchlib.interpolants["noisy-linear"](), matchlib.objectives["noise"]())
    state, time = torch.randn(3, 2), torch.full((3,), 0.4)
    c = model.interpolant.coefficients(time).c
    read = conversion(model, matchlib.objectives["data"]())((state,), state, model.interpolant.coefficients(time), None)
    assert torch.allclose(read, state - c[:, None] * state)  # a + b = 1: data = state - c noise


def test_minibatch_ot_is_optimal_and_does_not_mix_blocks() -> None:
    generator = torch.Generator().manual_seed(0)
    data, source = torch.randn(2, 6, 2, generator=generator)
    pair = _Given(block=3).pair(Batch(data, source), generator=generator)
    for block in (slice(0, 3), slice(3, 6)):
        from itertools import permutations

        cost = min(float((data[block] - source[block][list(p)]).square().sum()) for p in permutations(range(3)))
        assert float((data[block] - pair.source[block]).square().sum()) == pytest.approx(cost, rel=1e-5)


def test_minibatch_ot_has_a_gradient_that_misses_its_jumps() -> None:
    """Two points, two sources: as x crosses the other point its source jumps from -1 to 1, and the gradient knows nothing of that."""
    source = torch.tensor([[-1.0], [1.0]])

    def partner(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        data = torch.cat([x, torch.zeros(1, 1)])
        pair = _Given().pair(Batch(data, source), generator=torch.Generator())
        return pair.data, pair.source

    left, right = (partner(torch.tensor([[x]], requires_grad=True)) for x in (-0.1, 0.1))
    assert (left[1][0].item(), right[1][0].item()) == (-1.0, 1.0)
    assert not right[1].requires_grad
    x = torch.tensor([[0.1]], requires_grad=True)
    data, joined = partner(x)
    assert torch.autograd.grad((data * joined).sum(), x)[0].item() == 1.0  # the plan held fixed


@pytest.mark.parametrize("name", ["paired", "independent-data", "minibatch-ot-data"])
def test_couplings_of_data_refuse_data_without_a_source(name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}' needs data with a source"):
        PAIRS[name]().pair(Batch(torch.zeros(4, 2)), generator=torch.Generator())
