"""Settings of a training: how long, how carefully, and how the work is done."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from annotated_types import Ge, Gt, Le
from pydantic import Field, model_validator

from matchlib.settings import Settings

__all__ = ["EngineSettings", "LoRASettings", "OnAlarm", "TrainerSettings"]

Count = Annotated[int, Ge(1)]
Precision = Literal["fp32", "tf32", "bf16"]
Compile = Literal["default", "reduce-overhead", "max-autotune"]
OnAlarm = Literal["warn", "stop", "roll-back"]


class EngineSettings(Settings):
    """How the work is done; none of it changes what is computed but for rounding, and for what dropout and its like draw."""

    parallel: Literal["ddp", "fsdp"] = "ddp"
    """Where ``torchrun`` starts several processes: ``ddp`` gives each all weights, ``fsdp`` a part of each."""
    micro_batch_size: Count | None = None
    """Samples that are worked on at once, in every process; None for its whole part of the batch. It changes no random
    number but those of dropout and its like."""
    precision: Precision = "fp32"
    """Of the networks' matrix products: fp32; tf32, on CUDA; or bf16. States, targets and differences are fp32."""
    teacher_precision: Precision | None = None
    """Of the frozen teacher while a student is trained; with bf16 its weights take half of the memory too. None for that of the others.
    tf32 is a switch of the whole process, so that it cannot stand beside fp32."""
    compile: Compile | None = None
    """Mode of ``torch.compile`` for each network; reduce-overhead uses CUDA graphs. None for no compilation."""
    channels_last: bool = False
    """Whether images and the weights of convolutions are laid out with channels last."""
    checkpointing: bool = False
    """Whether blocks of networks are computed again in the backward pass instead of kept."""
    split: bool | None = None
    """Whether the student's gradient is made in two passes, of which one is in memory at a time; None where that costs nothing."""
    joint_forward: bool | None = None
    """Whether the critic evaluates generated and real points in one forward pass; None for small states."""

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuses tf32 beside fp32."""
        if {self.precision, self.teacher_precision} == {"tf32", "fp32"}:
            raise ValueError(" cannot mix tf32 and fp32 in precision and teacher_precision: tf32 is a switch of the whole process")
        return self


class LoRASettings(Settings):
    """Low-rank adapters: a network's weights stay frozen, and small differences to them are learned."""

    rank: Count = 16
    """Rank of each difference."""
    targets: tuple[str, ...] | None = None
    """Parts of layers' names; a linear or convolutional layer gets an adapter if its name holds one. null for all of them."""


class TrainerSettings(Settings):
    """How long and how carefully to train."""

    steps: Count
    """Optimiser steps in all."""
    warmup: Annotated[int, Ge(0)] = 100
    """Steps over which learning rates rise linearly from 0."""
    lr_decay: Annotated[float, Ge(0), Le(1)] = 0.0
    """Fraction of the steps, at the end, over which learning rates fall linearly to 0."""
    max_grad_norm: Annotated[float, Gt(0)] = math.inf
    """Largest norm of a gradient; inf for none."""
    adaptive_clip: Annotated[float, Gt(1)] = math.inf
    """Largest norm of a gradient over the root mean square of those before it; inf for none (AutoClip, Seetharaman et al., 2020)."""
    log_every: Count = 100
    """Steps between rows of the log."""
    checkpoint_every: Count = 1000
    """Steps between checkpoints."""
    keep_last: Count = 2
    """Latest checkpoints that are kept."""
    monitor_every: Annotated[int, Ge(0)] = 100
    """Steps between measurements of the monitor; 0 for none."""
    on_alarm: OnAlarm = "warn"
    """On an alarm: warn; stop; or, where lower rates may help, roll back to the last checkpoint that a later measurement found well,
    with half of the learning rates."""
    engine: EngineSettings = Field(default_factory=EngineSettings)
    """How the work is done."""

    def lr_factor(self, step: int) -> float:
        """Returns what learning rates are multiplied by at ``step``, in (0, 1]."""
        rise = (step + 1) / self.warmup if step < self.warmup else 1.0
        fall = (self.steps - step) / max(self.lr_decay * self.steps, 1.0)
        return min(rise, fall, 1.0)
