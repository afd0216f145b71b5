"""Several processes for one run, by PyTorch's own engines: gloo on the CPU, nccl on CUDA. ``torchrun`` starts them.

Every process takes the same step on its slice of the batch; gradients are averaged, so that the weights are those of one process with the
whole batch, to rounding. Files are written by process 0 and look as if it had been the only one.

References:
    Li et al., "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", 2020, https://arxiv.org/abs/2006.15704
    Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", 2023, https://arxiv.org/abs/2304.11277
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor, nn

from matchlib.errors import ArtifactError, SettingError, nearest

__all__ = ["DDP", "FSDP", "STRATEGIES", "SingleProcess", "hard_exit", "init_distributed", "rank", "strategy"]

RENDEZVOUS = ("RANK", "MASTER_ADDR", "MASTER_PORT")  # without these several processes cannot find each other
TIMEOUT = timedelta(minutes=10)  # that a process waits for the others


class SingleProcess:
    """One process."""

    rank, size = 0, 1

    def __init__(self) -> None:
        self._learned: WeakKeyDictionary[nn.Module, list[nn.Parameter]] = WeakKeyDictionary()

    def wrap(self, module: nn.Module) -> nn.Module:
        """Returns what to call in place of a module; to be done once, before a trainer is made of it."""
        return module

    def set_trainable(self, module: nn.Module, *, learns: bool) -> None:
        """Sets whether backward passes compute gradients of a module's weights."""
        for weight in self._weights(module):
            weight.requires_grad_(learns)

    def _weights(self, module: nn.Module) -> list[nn.Parameter]:
        """The weights that required a gradient at the first call."""
        if module not in self._learned:
            self._learned[module] = [weight for weight in module.parameters() if weight.requires_grad]
        return self._learned[module]

    def sync_gradients(self, module: nn.Module, *, now: bool) -> None:
        """Sets whether the next backward pass averages gradients over the processes."""

    def to_local(self, tensor: Tensor) -> Tensor:
        """Returns this process's part of a weight or a gradient, the same memory."""
        return tensor

    def full_tensor(self, part: Tensor, weight: Tensor) -> Tensor:
        """Returns the whole tensor of which every process holds a part, cut as ``weight`` is."""
        return part

    def shard(self, whole: Tensor, weight: Tensor) -> Tensor:
        """Returns this process's part of a whole tensor; the inverse of ``full_tensor``."""
        return whole

    def copy(self, module: nn.Module) -> nn.Module:
        """Returns a whole copy of a wrapped module; its weights are for the caller to fill."""
        return copy.deepcopy(module).requires_grad_(True)

    def all_reduce(self, x: Tensor) -> Tensor:
        """Returns the sum over the processes of a number that each computed from its parts of the weights."""
        return x

    def all_reduce_mean(self, x: Tensor) -> Tensor:
        """Returns the mean over the processes of a number that each computed from its slice of the batch."""
        return x

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process."""
        return flag

    def on_main_process(self, act: Callable[[], Any]) -> Any:
        """Calls a function in process 0 while the others wait; its result, or its error, is that of all."""
        return act()

    def gather(self, x: Tensor) -> Tensor:
        """Returns the sum over the processes of a tensor that is zero but for the rows of each."""
        return x


class DDP(SingleProcess):
    """Every process holds all weights; gradients are averaged while they are computed (DistributedDataParallel)."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._wrapped: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()

    def wrap(self, module: nn.Module) -> nn.Module:
        if not any(weight.requires_grad for weight in module.parameters()):
            return module
        device = next(module.parameters()).device
        ids = [device.index] if device.type == "cuda" else None
        wrapped = nn.parallel.DistributedDataParallel(module, device_ids=ids, broadcast_buffers=False)
        self._wrapped[module] = wrapped
        return wrapped

    def set_trainable(self, module: nn.Module, *, learns: bool) -> None:
        super().set_trainable(module, learns=learns)
        self.sync_gradients(module, now=learns)

    def sync_gradients(self, module: nn.Module, *, now: bool) -> None:
        if module not in self._wrapped:
            raise SettingError(
                f"a task's {type(module).__name__} is not wrapped: call strategy.wrap on what learns, and its result in place of it"
            )
        self._wrapped[module].require_backward_grad_sync = now  # type: ignore[assignment]  # what its no_sync() sets

    def all_reduce_mean(self, x: Tensor) -> Tensor:
        return self._sum(x) / self.size

    def any(self, flag: bool) -> bool:
        return bool(self._sum(torch.tensor(float(flag), device=_device())))

    def on_main_process(self, act: Callable[[], Any]) -> Any:
        result: list[Any] = [None, None]  # of the function, and the message of its error
        local: Exception | None = None
        if self.rank == 0:
            try:
                result[0] = act()
            except Exception as error:  # all must learn of it, or they wait for ever
                result[1], local = str(error), error
        dist.broadcast_object_list(result, 0, device=_device())
        if result[1] is not None:
            raise local or ArtifactError(result[1])
        return result[0]

    def gather(self, x: Tensor) -> Tensor:
        return self._sum(x)

    @staticmethod
    def _sum(x: Tensor) -> Tensor:
        x = x.detach().clone()
        dist.all_reduce(x)
        return x


class FSDP(DDP):
    """Every process holds a part of each weight, of its gradient, its average and its optimiser's state (``fully_shard``)."""

    def __init__(self) -> None:
        super().__init__()
        self._blank: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()

    def wrap(self, module: nn.Module) -> nn.Module:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        blank = copy.deepcopy(module).to("meta")
        mesh = init_device_mesh(_device().type, (self.size,))
        for block in _blocks(module):
            fully_shard(block, mesh=mesh)
        self._blank[module] = blank
        fully_shard(module, mesh=mesh)
        return module

    def set_trainable(self, module: nn.Module, *, learns: bool) -> None:
        self.sync_gradients(module, now=learns)  # fully_shard reads requires_grad once, when the module first runs
        module.reshard()  # type: ignore[operator]  # whole weights are kept after a forward pass that no backward pass followed

    def sync_gradients(self, module: nn.Module, *, now: bool) -> None:
        module.set_requires_gradient_sync(now)  # type: ignore[operator]

    def to_local(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to_local()  # type: ignore[attr-defined]

    def full_tensor(self, part: Tensor, weight: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor

        if not isinstance(weight, DTensor):
            return part
        shape, stride = weight.shape, weight.stride()
        return DTensor.from_local(part, weight.device_mesh, weight.placements, shape=shape, stride=stride).full_tensor()

    def shard(self, whole: Tensor, weight: Tensor) -> Tensor:
        from torch.distributed.tensor import DTensor, distribute_tensor

        if not isinstance(weight, DTensor):
            return whole
        return distribute_tensor(whole.to(weight.device), weight.device_mesh, weight.placements).to_local()

    def copy(self, module: nn.Module) -> nn.Module:
        copied = copy.deepcopy(self._blank[module]).to_empty(device=next(module.parameters()).device)
        for buffer, value in zip(copied.buffers(), module.buffers(), strict=True):
            buffer.copy_(value)
        return copied

    def all_reduce(self, x: Tensor) -> Tensor:
        return self._sum(x)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """Blocks that are gathered one at a time: the members of a network's lists."""
    return [block for part in module.modules() if isinstance(part, nn.ModuleList) for block in part if not isinstance(block, nn.ModuleList)]


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


STRATEGIES: Mapping[str, Callable[[], SingleProcess]] = {"ddp": DDP, "fsdp": FSDP}


def rank() -> tuple[int, int]:
    """Returns (rank of this process, number of processes), as torchrun sets them; (0, 1) without it.

    Raises:
        SettingError: the environment of several processes is not whole.
    """
    size = _number("WORLD_SIZE", 1)
    if size <= 1:
        return 0, 1
    missing = [key for key in RENDEZVOUS if key not in os.environ]
    if missing:
        raise SettingError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set: start several processes with torchrun")
    own = _number("RANK", 0)
    if own >= size:
        raise SettingError(f"RANK must be below WORLD_SIZE, got {own} and {size}")
    return own, size


def _number(key: str, default: int) -> int:
    """A variable of the environment as a number that is not negative."""
    text = os.environ.get(key, str(default))
    if not (text.isascii() and text.isdigit()):
        raise SettingError(f"the environment's {key} must be a number, got {text[:50]!r}")
    return int(text)


def init_distributed(device: torch.device) -> torch.device:
    """Joins the processes that torchrun started, if it did, and returns the device of this one."""
    if rank()[1] == 1:
        return device
    if device.type == "cuda":
        device = torch.device("cuda", _number("LOCAL_RANK", 0))
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    return device


def hard_exit(code: int) -> None:
    """Ends this process at once if it is one of several, with its output flushed; else returns.

    The usual end destroys threads of the process group, and under load it was seen to abort there (gloo: "terminate called without an
    active exception"), with all work done and written.
    """
    if rank()[1] > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def strategy(name: str) -> SingleProcess:
    """Returns the strategy of a name for the processes that have been started.

    Raises:
        SettingError: there is no such strategy.
    """
    if name not in STRATEGIES:
        raise SettingError(f"parallel must be one of {', '.join(STRATEGIES)}, got {name!r}{nearest(name, STRATEGIES)}")
    return STRATEGIES[name]() if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else SingleProcess()
