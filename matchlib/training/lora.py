"""Low-rank adapters: networks that learn a small difference to weights which stay as they are.

References:
    Hu, Shen, Wallis et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, https://arxiv.org/abs/2106.09685
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from matchlib.errors import SettingError

__all__ = ["adapt", "merge", "share"]

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
WEIGHT = "weight"


class LowRank(nn.Module):
    """``weight + up down``, where ``up`` begins at zero.

    Args:
        weight: of a layer, ``(outputs, inputs, ...)``.
        rank: of the difference; the most that the shape allows where that is less.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = weight.flatten(1).shape
        rank = min(rank, outputs, inputs)
        self.down = nn.Parameter(torch.empty(rank, inputs, dtype=weight.dtype, device=weight.device))
        self.up = nn.Parameter(torch.zeros(outputs, rank, dtype=weight.dtype, device=weight.device))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight.flatten(1), self.up, self.down).view_as(weight)


def adapt(module: nn.Module, rank: int, targets: Sequence[str] | None = None) -> int:
    """Freezes a module and gives adapters to its linear and convolutional layers, in place; its answers stay as they are.

    Layers that share a weight share its adapter. Layers whose weight is parametrised otherwise, by ``weight_norm`` for instance, get none.

    Args:
        rank: of every adapter, >= 1.
        targets: parts of layers' names; a layer gets an adapter if its name holds one of them. None for all layers.

    Returns:
        How many numbers learn.

    Raises:
        SettingError: no layer is chosen.
    """
    chosen = layers_of(module, targets)
    module.requires_grad_(False)
    adapters: dict[nn.Parameter, LowRank] = {}
    for layer in chosen:
        weight = layer.get_parameter(WEIGHT)
        adapters[weight] = adapters.get(weight) or LowRank(weight, rank)
        parametrize.register_parametrization(layer, WEIGHT, adapters[weight])
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)


def layers_of(module: nn.Module, targets: Sequence[str] | None = None) -> list[nn.Module]:
    """Returns the layers that ``adapt`` gives adapters.

    Raises:
        SettingError: there are none.
    """
    plain = (item for item in module.named_modules() if not parametrize.is_parametrized(item[1], WEIGHT))
    layers = {name: part for name, part in plain if isinstance(part, LAYERS)}
    chosen: list[nn.Module] = [part for name, part in layers.items() if targets is None or any(target in name for target in targets)]
    if not chosen:
        there = ", ".join(list(layers)[:8]) or "none"
        raise SettingError(f"lora: no linear or convolutional layer has a name with one of {list(targets or ())} (there are: {there}, ...)")
    return chosen


def _adapted(part: nn.Module) -> bool:
    return parametrize.is_parametrized(part, WEIGHT) and any(isinstance(x, LowRank) for x in part.parametrizations[WEIGHT])  # type: ignore[index]


def merge(module: nn.Module) -> nn.Module:
    """Adds adapters to the weights that they belong to, in place, so that the module is as one without adapters."""
    merged: dict[nn.Parameter, nn.Parameter] = {}  # by the weight that layers may share
    for part in list(module.modules()):
        if _adapted(part):
            whole, others = getattr(part, WEIGHT), dict(part._parameters)
            original: nn.Parameter = part.parametrizations[WEIGHT].original  # type: ignore[index,union-attr]
            weight = merged.setdefault(original, nn.Parameter(whole.detach().clone()))
            # not remove_parametrizations, which takes the weight from the class that copies of a module share
            part.__class__ = type(part).__bases__[0]
            del part._modules["parametrizations"]
            part._parameters.clear()
            part.register_parameter(WEIGHT, weight)
            part._parameters.update(others)
    return module


@torch.no_grad()
def share(module: nn.Module, other: nn.Module) -> int:
    """Lets frozen weights of a module lie where equal ones of another lie, and returns the bytes that this saves.

    Args:
        module, other: weights meet by the ends of their names, adapters left out.
    """
    there = dict(_frozen(other))
    saved = 0
    for name, weight in _frozen(module):
        known = there.get(name)
        if known is not None and known.dtype == weight.dtype and torch.equal(known, weight) and known.data_ptr() != weight.data_ptr():
            weight.data = known.data
            saved += weight.nbytes
    return saved


def _frozen(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, weight in module.named_parameters():
        if not weight.requires_grad:
            plain = name.replace("parametrizations.", "").removesuffix(".original")
            yield plain.removeprefix("module.").removeprefix("field."), weight
