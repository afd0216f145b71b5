"""What makes networks faster or smaller without changing what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import nn

from matchlib.errors import SettingError
from matchlib.fields.callable import CallableField
from matchlib.fields.preconditioned import Preconditioned

if TYPE_CHECKING:
    from matchlib.training.settings import Compile, Precision

__all__ = ["Checkpointed", "compute_in", "prepare"]

DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16}
VARIANTS = 64  # of one network's code: three networks, with and without a gradient, at several batches; torch gives up compiling after 8


@runtime_checkable
class Checkpointed(Protocol):
    """A network that can compute its blocks again in the backward pass instead of keeping what they computed."""

    checkpointing: bool


def prepare(
    module: nn.Module,
    *,
    precision: Precision = "fp32",
    compile: Compile | None = None,  # torch's own word
    channels_last: bool = False,
    checkpointing: bool = False,
    frozen: bool = False,
) -> nn.Module:
    """Changes how the networks inside a field, student or teacher are run; names, shapes and types of their weights stay.

    Args:
        module: the networks of its fields are prepared; where it has none, it is compiled itself and nothing else is done.
        precision, compile, channels_last, checkpointing: see ``matchlib.training.settings.EngineSettings``.
        frozen: whether it will never learn, so that its networks' weights may be kept in less precision too; their type then changes.

    Returns:
        The module.
    """
    if DTYPES[precision] is None:  # a switch of the whole process
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    networks = []
    for field in _fields_of(module):
        field.precision = DTYPES[precision]
        network = getattr(field, field.core)
        if not isinstance(network, nn.Module):  # a function: what it calls is computed in less precision, and no more is known of it
            continue
        networks.append(network)
        if frozen and field.precision is not None:
            _cast(field, network, field.precision)
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in network.modules():
            if checkpointing and isinstance(part, Checkpointed):
                part.checkpointing = True
    if compile is not None:
        limits = torch._dynamo.config  # the limit of variants has no public name
        limits.recompile_limit = max(limits.recompile_limit, VARIANTS)
        for network in networks or [module]:
            network.compile(mode=compile)  # in place: the state's names stay
    return module


def compute_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Keeps the weights of the networks inside a student or teacher that never learns again in another type, and computes in it.

    Args:
        dtype: torch.float32, torch.bfloat16 or torch.float16; what is done with the networks' answers stays in float32.

    Raises:
        SettingError: it is another type, or there is no network in it.
    """
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise SettingError(f"networks compute in torch.float32, torch.bfloat16 or torch.float16, got {dtype}")
    fields = [field for field in _fields_of(module) if isinstance(getattr(field, field.core), nn.Module)]
    if not fields and dtype != torch.float32:
        raise SettingError(f"there is no network whose weights could be {dtype}: this one is a function")
    for field in fields:
        field.precision = None if dtype == torch.float32 else dtype
        _cast(field, getattr(field, field.core), dtype)


def _cast(field: nn.Module, network: nn.Module, dtype: torch.dtype) -> None:
    """Keeps a network's weights in another type.

    Of networks that others made, only those with two axes and more: their layers of normalisation, which autocast leaves alone on a CPU,
    take no input of another type than that of their weights.
    """
    if isinstance(field, Preconditioned) or dtype == torch.float32:
        network.to(dtype)
        return
    for weight in network.parameters():
        if weight.dim() > 1 and weight.is_floating_point():
            weight.data = weight.data.to(dtype)


def _fields_of(module: nn.Module) -> list[Preconditioned | CallableField]:
    """Returns what is around the networks inside a field, student or teacher."""
    return [part for part in module.modules() if isinstance(part, Preconditioned | CallableField)]
