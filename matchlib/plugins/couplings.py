"""Couplings: who is paired with whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from matchlib.algebra.coupling import Coupling
from matchlib.algebra.interpolant import draw_like
from matchlib.algebra.records import Batch, Pair
from matchlib.algebra.rows import Coefficients, Row
from matchlib.errors import DataError, SettingError
from matchlib.registry import couplings

__all__ = ["Independent", "IndependentData", "MinibatchOT", "MinibatchOTData", "Mirror", "Paired"]


@couplings.register("independent")
@dataclass(frozen=True)
class Independent(Coupling):
    """source ~ N(0, I)."""

    gaussian_source: ClassVar[bool] = True
    independent: ClassVar[bool] = True

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        return draw_like(batch.data, generator)


@couplings.register("mirror")
@dataclass(frozen=True)
class Mirror(Coupling):
    """source = data: the state is (a + b) data + c noise, and a generator answers data with other data of the same distribution.

    References:
        Albergo, Boffi, Vanden-Eijnden, "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions", 2023,
        https://arxiv.org/abs/2303.08797 (section 3.4: mirror interpolants)
    """

    @property
    def draws_source(self) -> bool:
        return False

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        return batch.data

    def given(self, batch: Batch) -> Tensor | None:
        return batch.data

    def partner(self, data: Tensor, source: Tensor) -> Tensor | None:
        return data

    def relations(self, coefficients: Coefficients, *, source_seen: bool) -> tuple[Row, ...]:
        return (Row(1.0, -1.0, 0.0),)


@couplings.register("paired")
@dataclass(frozen=True)
class Paired(Coupling):
    """Each sample stays with its own source (degraded to clean, night to day)."""

    reads_source: ClassVar[bool] = True
    paired: ClassVar[bool] = True

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        return _sources(self, batch)


@couplings.register("independent-data")
@dataclass(frozen=True)
class IndependentData(Coupling):
    """The source is data of its own; sample i meets the source of sample i + 1, which is independent of it and of its own source."""

    reads_source: ClassVar[bool] = True
    independent: ClassVar[bool] = True
    least: ClassVar[int] = 2

    def block_size(self, size: int) -> int:
        return size

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        return _sources(self, batch).roll(1, 0)


def _sources(coupling: Coupling, batch: Batch) -> Tensor:
    """Returns the batch's own sources, as many as the coupling needs at least."""
    name = couplings.name_of(coupling)
    if batch.source is None:
        raise DataError(
            f"coupling {name!r} needs data with a source: an npz with an array 'source', or 'digits-restore'; "
            "for a normal source use 'independent' or 'minibatch-ot'"
        )
    if len(batch.source) < coupling.least:
        raise DataError(f"coupling {name!r} needs batches of at least {coupling.least}: a sample may not meet its own source")
    return batch.source


@couplings.register("minibatch-ot")
@dataclass(frozen=True)
class MinibatchOT(Coupling):
    """Standard normal noise is permuted to the least squared distance within each block and class.

    Neither Gaussian given the data nor independent of them, so no score can be read off: conversions refuse it. The gradient reaches
    ``batch.data`` with the permutation held fixed: where the optimal permutation jumps, the derivative of the expectation has a part
    that this misses, so a student's fixed point is right and its gradient is biased.

    Args:
        block: samples that share one plan, >= 1. Part of the distribution: a larger block straightens the paths.

    References:
        Tong et al., "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", 2023,
        https://arxiv.org/abs/2302.00482
        Pooladian et al., "Multisample Flow Matching", 2023, https://arxiv.org/abs/2304.14772
        Cheng, Schwing, "The Curse of Conditions: Analyzing and Improving Optimal Transport for Conditional Flow-Based Generation", 2025,
        https://arxiv.org/abs/2503.10636 (a plan that ignores the labels makes source and label dependent)
    """

    block: Annotated[int, Ge(1)] = 128

    def __post_init__(self) -> None:
        if self.block < 1:
            raise SettingError(f"{couplings.name_of(self)}: block must be at least 1, got {self.block}")

    def plan(self, size: int) -> int:
        """Returns how many samples of a batch share one plan."""
        return min(self.block, size)

    def block_size(self, size: int) -> int:
        return self.plan(size)

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        return draw_like(batch.data, generator)

    def pair(self, batch: Batch, *, generator: torch.Generator) -> Pair:
        source = self.source(batch, generator=generator)
        group = _groups(batch.label, len(source), self.plan(len(source)))
        order = torch.arange(len(source))
        for i in range(int(group.max()) + 1):
            members = torch.nonzero(group == i)[:, 0]
            rows = members.to(source.device)
            order[members] = members[_match(batch.data.detach()[rows], source[rows])]
        return Pair(batch.data, source[order.to(source.device)], batch.label)


def _groups(label: Tensor | None, size: int, block: int) -> Tensor:
    """Returns the number of the plan that each sample takes part in: one for each block, and for each class in it."""
    blocks = torch.arange(size) // block
    if label is None:
        return blocks
    if label.is_floating_point() or label.ndim != 1:
        raise DataError(
            "optimal transport keeps the source independent of the labels by a plan for each class, so labels must be classes; "
            "choose another coupling, or data.labels=false"
        )
    classes = label.cpu() + 1  # a missing label is -1, and a class of its own here
    return torch.unique(blocks * (classes.max() + 1) + classes, return_inverse=True)[1]


def _match(data: Tensor, source: Tensor) -> Tensor:
    """Returns the order in which ``source`` is nearest to ``data``."""
    import ot

    cost = torch.cdist(data.flatten(1).double(), source.flatten(1).double()).square().cpu().numpy()
    plan = ot.emd([], [], cost)  # uniform weights: the plan is a permutation
    return torch.as_tensor(plan.argmax(1))


@couplings.register("minibatch-ot-data")
@dataclass(frozen=True)
class MinibatchOTData(MinibatchOT):
    """As ``minibatch-ot``, from sources that are data: the sources of one block are matched to the data of the next.

    So no sample shares a plan with its own source: data that happen to come in pairs are treated as if they did not.

    Args:
        block: samples that share one plan, at most half a batch, >= 1.

    References:
        Tong et al., "Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport", 2023,
        https://arxiv.org/abs/2302.00482
    """

    reads_source: ClassVar[bool] = True
    least: ClassVar[int] = 2

    def plan(self, size: int) -> int:
        return min(self.block, size // 2)

    def block_size(self, size: int) -> int:
        return size

    def source(self, batch: Batch, *, generator: torch.Generator) -> Tensor:
        return _sources(self, batch).roll(self.plan(len(batch.data)), 0)
