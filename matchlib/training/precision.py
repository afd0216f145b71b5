"""What makes networks faster or smaller without changing what they are."""

from __future__ import annotations

import torch
from torch import nn

from matchlib.errors import SettingError, nearest
from matchlib.fields.preconditioned import Preconditioned

__all__ = ["check", "prepare"]

PRECISIONS = {"fp32": None, "tf32": None, "bf16": torch.bfloat16}
VARIANTS = 64  # of one network's code: three networks, with and without a gradient, at several batches; torch gives up compiling after 8
MODES = ("default", "reduce-overhead", "max-autotune")


def check(precision: str, compile: str | None = None) -> None:
    """Raises ``SettingError`` if there is no such precision or mode."""
    if precision not in PRECISIONS:
        raise SettingError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}{nearest(precision, PRECISIONS)}")
    if compile is not None and compile not in MODES:
        raise SettingError(f"compile must be one of {', '.join(MODES)}, or null, got {compile!r}{nearest(compile, MODES)}")


def prepare(
    module: nn.Module,
    *,
    precision: str = "fp32",
    compile: str | None = None,  # torch's own word
    channels_last: bool = False,
    checkpointing: bool = False,
    frozen: bool = False,
) -> nn.Module:
    """Changes how the networks inside a field, student or teacher are run; names, shapes and types of their weights stay.

    Args:
        module: its ``Preconditioned`` fields are prepared; where it has none, it is compiled itself and the rest says nothing to it.
        precision, compile, channels_last, checkpointing: see ``matchlib.runs.settings.EngineSettings``.
        frozen: whether it will never learn, so that its networks' weights may be kept in less precision too; their type then changes.

    Returns:
        The module.

    Raises:
        SettingError: a precision or mode that there is not.
    """
    check(precision, compile)
    if precision == "tf32":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if compile is not None:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    fields = [part for part in module.modules() if isinstance(part, Preconditioned)]
    for field in fields:
        field.precision = PRECISIONS[precision]
        if frozen and field.precision is not None:
            field.network.to(field.precision)
        if channels_last:
            field.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in field.network.modules():
            if checkpointing and hasattr(part, "checkpointing"):
                setattr(part, "checkpointing", True)  # noqa: B010  # networks that can say that they do
    for network in [field.network for field in fields] or [module]:
        if compile is not None:
            network.compile(mode=compile)  # in place: the state's names stay
    return module
