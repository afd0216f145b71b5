"""How much memory does a step take, and does the plan know? CPU, float32, U-Nets on 28x28 images.

Saved activations: what autograd keeps at once in a student step (saved_peak below), for a plain loop (one graph through
teacher, critic and student, as the released code has it), split, and split with checkpointing; and the largest difference of the student's
gradient, relative to its size. Plan: `matchlib plan` against what the allocator gave out in a whole run, as PyTorch's profiler saw it.

    python -m benchmarks.memory.memory
"""

from __future__ import annotations

import copy
import gc
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import matchlib
from benchmarks.record import save
from matchlib.algebra.records import Batch
from matchlib.data.dataset import Dataset
from matchlib.distillation.distillation import Distillation
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.teacher import Teacher
from matchlib.plugins.tasks import DistillationTask
from matchlib.runs.artifact import build_field
from matchlib.runs.build import build
from matchlib.runs.plan import plan
from matchlib.runs.settings import resolve
from matchlib.training.precision import prepare
from matchlib.training.random import Streams
from matchlib.training.settings import EngineSettings, TrainerSettings
from matchlib.training.task import Learner
from matchlib.training.trainer import Trainer

MIB = 2**20
NETWORKS = {
    "U-Net, 0.5 M": {"name": "unet", "channels": 32},
    "U-Net, 4.7 M": {"name": "unet", "channels": 64, "multipliers": (1, 2, 2), "blocks": 2},
}
LOSSES = {"uid": {"name": "uid"}, "realuid, default": {"name": "realuid", "alpha": 2.0, "beta": 2.0, "gamma": 0.5}}


def teacher_of(network: dict[str, Any]) -> Teacher:
    """Returns a teacher with random weights."""
    torch.manual_seed(0)
    model = matchlib.families["flow"]().model(paired=False)
    field = build_field(network, NetworkSpec((1, 28, 28)), model, Teacher(nn.Identity(), model).moments)
    for weight in field.parameters():
        nn.init.normal_(weight, std=0.05)
    return Teacher(field, model)


def student_step(of: Distillation, prompt: Batch, *, plain: bool) -> Tensor:
    """Returns a student step's loss, after its backward pass."""
    generator = torch.Generator().manual_seed(0)
    if plain:
        point = of.sample_path(of.generate(prompt, generator=generator), real=prompt, generator=generator)
        (predictions,) = of.predictions(point)[0]
        loss = of.loss.student_loss(predictions).mean()
    else:
        of.critic.requires_grad_(False)
        loss = of.student_loss(prompt=prompt, real=prompt, generator=generator)
    loss.backward()
    return loss.detach()


def saved_peak(act: Callable[[], Any], weights: Iterable[Tensor] = ()) -> int:
    """Returns the largest number of bytes that autograd keeps for backward passes at once while ``act`` runs.

    Args:
        weights: not counted, since they are there anyway.
    """
    now = peak = 0
    counts: dict[int, int] = {}
    there = {weight.untyped_storage().data_ptr() for weight in weights}

    def keep(x: Tensor) -> _Kept:
        nonlocal now, peak
        storage = x.untyped_storage()
        key = storage.data_ptr()
        if key in there:
            return _Kept(x.detach(), lambda: None)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] == 1:
            now += storage.nbytes()
            peak = max(peak, now)

        def drop(size: int = storage.nbytes()) -> None:
            nonlocal now
            counts[key] -= 1
            if not counts[key]:
                now -= size

        return _Kept(x.detach(), drop)  # the tensor itself may be the answer of the node that keeps it: a cycle

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        act()
    return peak


class _Kept:
    """A saved tensor that tells when it is let go."""

    def __init__(self, tensor: Tensor, drop: Callable[[], None]) -> None:
        self.tensor, self._drop = tensor, drop

    def __del__(self) -> None:
        self._drop()


def activations(network: dict[str, Any], loss: dict[str, Any], size: int = 8) -> dict[str, Any]:
    """Returns saved activations per sample, in MiB, and how far gradients are apart."""
    teacher, prompt = teacher_of(network), Batch(torch.randn(size, 1, 28, 28))
    row: dict[str, Any] = {}
    gradients = {}
    for way in ("plain", "split", "split, checkpointing"):
        modules = copy.deepcopy(teacher), matchlib.students["onestep"](teacher, None), copy.deepcopy(teacher.field).requires_grad_(True)
        with torch.no_grad():
            for weight in modules[2].parameters():
                weight.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        if "checkpointing" in way:
            for module in modules:
                prepare(module, checkpointing=True)
        of = Distillation(*modules, matchlib.losses.build(loss), two_pass=True)
        weights = [weight for module in modules for weight in module.parameters()]
        row[way] = saved_peak(lambda of=of, way=way: student_step(of, prompt, plain=way == "plain"), weights) / MIB / size
        gradients[way] = torch.cat([weight.grad.flatten() for weight in modules[1].parameters()])
        gc.collect()
    largest = gradients["plain"].abs().max()
    apart = {way: ((g - gradients["plain"]).abs().max() / largest).item() for way, g in gradients.items() if way != "plain"}
    return {**row, "split / plain": row["split"] / row["plain"], "gradients apart": apart}


def allocated(act: Any) -> int:
    """Returns the most that the allocator gave out at once while ``act`` ran, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        act()
    now = most = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def planned(network: dict[str, Any], batch: int, engine: dict[str, Any], data: Dataset) -> dict[str, Any]:
    """Returns what the plan says and what a training of four steps took, in MiB."""
    settings = resolve("distill", config={"teacher": {"network": network}, "trainer": {"batch_size": batch, "engine": engine}})
    begin = time.perf_counter()
    expected = plan(settings, data).peak()
    seconds = time.perf_counter() - begin

    def act() -> None:
        components = build(settings, data=data)
        parts, frozen = components.distillation, copy.deepcopy(components.teacher)
        assert parts is not None
        for module in (frozen, parts.student, parts.critic):
            prepare(module, checkpointing=settings.trainer.engine.checkpointing)
        of = Distillation(frozen, parts.student, parts.critic, parts.loss, parts.times)
        learners = Learner(parts.student), Learner(parts.critic, ema=0.0)
        algorithm = DistillationTask(of, *learners, components.data, Streams(0, torch.device("cpu")), batch_size=batch)
        del components, parts, frozen  # a real run holds the first teacher on the CPU
        trainer = Trainer(
            algorithm, TrainerSettings(steps=4, engine=EngineSettings(micro_batch_size=settings.trainer.engine.micro_batch_size))
        )
        for _ in range(4):
            trainer.step()

    gc.collect()
    measured = allocated(act)
    return {"plan": expected / MIB, "measured": measured / MIB, "ratio": expected / measured, "seconds of the plan": seconds}


def main() -> None:
    rows = []
    for name, network in NETWORKS.items():
        for loss, piece in LOSSES.items():
            rows.append({"what": "activations", "network": name, "loss": loss, **activations(network, piece)})
            print(rows[-1], flush=True)
    data = Dataset.from_arrays("images", np.random.default_rng(0).normal(size=(512, 1, 28, 28)).astype(np.float32))
    for name, network in NETWORKS.items():
        for batch, engine in ((32, {}), (128, {}), (128, {"micro_batch_size": 32}), (128, {"checkpointing": True})):
            rows.append({"what": "plan", "network": name, "batch": batch, "engine": engine, **planned(network, batch, engine, data)})
            print(rows[-1], flush=True)
    save("memory", rows)


if __name__ == "__main__":
    main()
