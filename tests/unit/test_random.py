"""matchlib.training.random: streams, and slices of a batch that draw what the whole draws."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from matchlib.errors import IncompatibleError, SettingError
from matchlib.training.random import BatchSlice, Streams, may_draw, seeded, slice_position


def test_streams_are_independent_of_each_other() -> None:
    streams = Streams(0, torch.device("cpu"))
    draws = [torch.randn(3, generator=streams(name, step)) for name in ("a", "b") for step in (0, 1)]
    assert len({tuple(x.tolist()) for x in draws}) == 4
    assert torch.equal(torch.randn(3, generator=streams("a", 0)), draws[0])


def test_seeded_draws_from_a_generators_seed_and_leaves_no_trace() -> None:
    streams, before = Streams(0, torch.device("cpu")), torch.get_rng_state()
    with seeded(streams("a", 1)):
        one = torch.rand(3)
    torch.rand(5)
    with seeded(streams("a", 1)):
        assert torch.equal(torch.rand(3), one)
    with seeded(streams("a", 2)):
        assert not torch.equal(torch.rand(3), one)
    torch.set_rng_state(before)
    with seeded(streams("a", 1)):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)


class Drawing(nn.Linear):
    """Code that is neither torch's nor ours."""


@pytest.mark.parametrize(
    ("module", "draws"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.SiLU(), nn.GroupNorm(1, 2)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.0)), False),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), True),
        (nn.MultiheadAttention(4, 2), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.LSTM(2, 2, 2, dropout=0.1), True),
        (nn.RReLU(), True),
        (nn.Sequential(Drawing(2, 2)), True),
    ],
)
def test_may_draw_finds_dropout_and_code_that_is_unknown(module: nn.Module, draws: bool) -> None:
    assert may_draw(module) == draws


# -- slices ----------------------------------------------------------------------------------------------------------------


def draws(rows: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shaped = torch.randn(rows, 3, generator=generator), torch.rand((rows, 2), generator=generator)
    whole = torch.rand((), generator=generator).expand(rows)
    return [*shaped, torch.randint(10, (rows,), generator=generator), torch.randint(2, 9, size=(rows, 1), generator=generator), whole]


@pytest.mark.parametrize("most", [1, 3, 7, 8])
def test_batch_slice_parts_draw_what_the_whole_draws(most: int) -> None:
    found = []
    for part in BatchSlice.of(8).parts(most):
        with part.drawing():
            found.append(draws(part.rows))
    assert all(torch.equal(torch.cat(parts), wanted) for parts, wanted in zip(zip(*found, strict=True), draws(8), strict=True))


def test_batch_slice_refuses_a_draw_that_cannot_be_cut() -> None:
    with BatchSlice(0, 2, 8).drawing(), pytest.raises(IncompatibleError, match=r"normal_.*cannot be cut.*randn"):
        torch.empty(2).normal_(generator=torch.Generator())


def test_batch_slice_refuses_a_batch_that_processes_cannot_share() -> None:
    with pytest.raises(SettingError, match="a batch of 10 samples cannot be shared equally by 4 processes"):
        BatchSlice.of(10, 0, 4)


def test_slice_position_is_that_of_the_active_slice() -> None:
    assert slice_position(3) == (0, 3)
    with BatchSlice(2, 5, 8).drawing():
        assert slice_position(3) == (2, 8)
        assert slice_position(4) == (0, 4)
