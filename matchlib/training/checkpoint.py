"""Checkpoints: everything that a run needs to go on as if it had never stopped, in one safetensors file.

A file looks the same whatever the number of processes that wrote it, so that a run may go on with another number of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.errors import ArtifactError, nearest
from matchlib.io import read_tensors, write_tensors
from matchlib.training.distributed import SingleProcess
from matchlib.training.ema import EMA
from matchlib.training.task import Learner

__all__ = ["Checkpoints", "TrainState", "whole"]


class TrainState:
    """One learner in training: its module, optimiser and averages.

    Args:
        learner: its module is placed already.
        parallel: which part of every weight is here.

    Attributes:
        weights: those that learn, as the module has them.
        own: this process's parts of them, which the optimiser steps.
        skipped: steps left out because a gradient was not finite, a number on the device.
        usual: running mean of the squared norm of the gradient, as far as it was let through, and the weight of the steps that are in it.
    """

    def __init__(self, learner: Learner, parallel: SingleProcess) -> None:
        self.learner, self.parallel = learner, parallel
        self.named = dict(learner.module.named_parameters())  # taken now: an engine may put others in their place for a while
        self.weights = [w for w in self.named.values() if w.requires_grad]
        parts = [parallel.to_local(w) for w in self.weights]
        self.own = [part if isinstance(part, nn.Parameter) else nn.Parameter(part) for part in parts]
        self.optimiser = torch.optim.Adam(self.own, lr=learner.lr, betas=learner.betas, fused=True)
        self.ema = EMA(learner.module, (learner.ema, *learner.extra_ema_decays), parallel)
        self.skipped = torch.zeros((), device=self.own[0].device if self.own else None)
        dtype = torch.promote_types(self.own[0].dtype, torch.float32) if self.own else torch.float32
        self.usual = torch.zeros(2, dtype=dtype, device=self.skipped.device)
        self._one = torch.ones_like(self.skipped)

    def step(self, rate: float, clip: float, surge: float = math.inf) -> None:
        """Steps along the gradients that the weights have now, unless one is not finite; nothing waits for the device.

        Args:
            rate: Adam's step size.
            clip: largest norm of the gradient.
            surge: likewise, over the running root mean square of those before, averaged as Adam's second moment is.
        """
        for own, weight in zip(self.own, self.weights, strict=True):
            if own is not weight and weight.grad is not None:
                own.grad = self.parallel.to_local(weight.grad)
        gradients = [w.grad for w in self.own if w.grad is not None]
        bad = torch.zeros_like(self.skipped)
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, bad, self._one)  # what GradScaler calls
        bad = self.parallel.all_reduce(bad).clamp(max=1.0)
        if gradients and min(clip, surge) < math.inf:
            bad = self._restrain(gradients, clip, surge, bad)
        self.skipped += bad
        self.optimiser.found_inf = bad  # type: ignore[attr-defined]  # as GradScaler does: the step is left out on the device
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.ema.update()

    def _restrain(self, gradients: list[Tensor], clip: float, surge: float, bad: Tensor) -> Tensor:
        """Shortens a gradient that is too long, all of it alike; returns whether it, or its norm, is not finite."""
        norm = self.parallel.all_reduce(torch.nn.utils.get_total_norm(gradients, foreach=True).square()).sqrt().to(self.usual.dtype)
        bad = torch.where(torch.isfinite(norm), bad, self._one)
        total, weight = self.usual
        limit = torch.where(total > 0, surge * (total / weight).sqrt(), math.inf).clamp(max=clip)
        factor = (limit / norm.clamp_min(1e-30)).clamp(max=1.0)
        torch._foreach_mul_(gradients, factor)
        decay = self.learner.betas[1]
        now = torch.stack([(norm * factor).square(), torch.ones_like(norm)])
        self.usual = torch.where(bad > 0, self.usual, decay * self.usual + (1 - decay) * now)
        return bad

    def clear(self) -> None:
        """Forgets the gradients."""
        for weight in self.weights:
            weight.grad = None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields every tensor of the state, named and whole."""
        whole, module = self.parallel.full_tensor, self.learner.module
        of = self.named
        for key, x in module.state_dict().items():
            yield f"module/{key}", whole(self.parallel.to_local(of[key]), of[key]) if key in of else x
        for name, average in zip(self._names(), self.ema.averages, strict=True):
            for i, (mean, weight) in enumerate(zip(average, of.values() if average else (), strict=True)):
                yield f"{name}/{i}", whole(mean, weight)
        yield "counts", torch.stack([torch.tensor(float(self.ema.updates)), self.skipped.cpu()])
        yield "usual", self.usual
        for i, slots in self.optimiser.state_dict()["state"].items():
            for key, slot in slots.items():
                x = torch.as_tensor(slot)
                yield f"optimiser/{i}/{key}", whole(x, self.weights[i]) if x.ndim else x

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from its tensors."""

        def of(kind: str) -> dict[str, Tensor]:
            return {key[len(kind) + 1 :]: x for key, x in tensors.items() if key.startswith(f"{kind}/")}

        part, module = self.parallel.shard, self.learner.module
        saved, weights = of("module"), self.named
        with torch.no_grad():
            for key, there in module.state_dict().items():
                own = self.parallel.to_local(weights[key]) if key in weights else there
                own.copy_(part(saved.pop(key), weights[key]) if key in weights else saved.pop(key))
            if saved:
                raise KeyError(f"{', '.join(saved)} have no place")
            for name, average in zip(self._names(), self.ema.averages, strict=True):
                means = of(name)
                for i, (mean, weight) in enumerate(zip(average, weights.values() if average else (), strict=True)):
                    mean.copy_(part(means[str(i)], weight))
            updates, skipped = tensors["counts"].tolist()
            self.ema.updates = int(updates)
            self.skipped.fill_(skipped)
            self.usual.copy_(tensors.get("usual", torch.zeros(2)))  # older files have none
        slots: dict[int, dict[str, Tensor]] = {}
        for key, x in of("optimiser").items():
            index, name = key.split("/")
            slots.setdefault(int(index), {})[name] = part(x, self.weights[int(index)]) if x.ndim else x
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})

    def _names(self) -> list[str]:
        return ["ema", *(f"ema-{decay}" for decay in self.learner.extra_ema_decays)]


class Checkpoints:
    """The checkpoints of one phase of a run.

    Args:
        folder: where they lie, one file each.
        phase: first part of their names.
        keep: how many of the latest are kept.
        named: path of the one to go on from; None for the latest.
        note: further strings for every file, such as versions.
    """

    def __init__(self, folder: Path, phase: str, keep: int = 2, named: Path | None = None, note: Mapping[str, str] | None = None) -> None:
        self.folder, self.phase, self.keep, self.named = folder, phase, keep, named
        self.note = dict(note or {})

    def files(self) -> list[Path]:
        """The phase's checkpoints, oldest first."""
        return sorted(self.folder.glob(f"{self.phase}-*.safetensors"))

    def good(self, but: Path | None = None) -> Path | None:
        """Returns the latest checkpoint that is whole, if there is one.

        Args:
            but: one that is not looked at.
        """
        return next((file for file in reversed(self.files()) if file != but and whole(file)), None)

    def trusted(self, well: int, every: int) -> Iterator[Path]:
        """Yields checkpoints, first those that a later look found well, latest first, and then the others, earliest first.

        Args:
            well: step of the last look that found nothing wrong.
            every: steps between regular checkpoints; those written at an interruption are no better than others, so that interruptions
                change nothing.
        """
        files = self.files()
        found = [file for file in files if _step(file) < well and _step(file) % every == 0]
        yield from reversed(found)
        yield from (file for file in files if file not in found)

    def file(self, step: int) -> Path:
        """The checkpoint after ``step`` steps."""
        return self.folder / f"{self.phase}-{step:08d}.safetensors"

    def write(self, step: int, tensors: Mapping[str, Tensor], history: Mapping[str, Any], spared: Collection[Path | None] = ()) -> Path:
        """Writes the state after ``step`` steps and removes what is older than the last ``keep``.

        Args:
            spared: older files that are not removed.
        """
        path = self.file(step)
        note = {"step": json.dumps(step), "phase": self.phase, "history": json.dumps(history), **self.note}
        write_tensors(path, tensors, note)
        for old in self.files()[: -self.keep]:
            if old not in spared:
                old.unlink(missing_ok=True)
        return path

    def set_aside(self, step: int) -> None:
        """Renames checkpoints later than ``step``: what goes on from an earlier one writes them anew."""
        for file in self.files():
            if _step(file) > step:
                file.rename(file.with_suffix(".set-aside"))

    def restore(self, states: Mapping[str, TrainState], path: Path | None = None) -> tuple[int, dict[str, Any]]:
        """Loads a checkpoint and returns the number of steps it has behind it and its history; (0, {}) if there is none.

        Args:
            path: which; None for the one that was named, or else the latest.

        Raises:
            CardError: it is missing or damaged, or belongs to other networks; the message names the last good one.
        """
        files = self.files()
        path = path or self.named
        if path is None:
            if not files:
                return 0, {}
            path = files[-1]
        try:
            tensors, note = read_tensors(path)
            for name, state in states.items():
                state.load({key[len(name) + 1 :]: x for key, x in tensors.items() if key.startswith(f"{name}/")})
            return int(note["step"]), json.loads(note.get("history", "{}"))
        except (ArtifactError, KeyError, RuntimeError, ValueError) as error:
            good = self.good(but=path)
            there = f"; the last good one is {good}" if good else "; there is no other good one"
            hint = nearest(path.name, [file.name for file in files]) if not path.exists() else ""
            raise ArtifactError(f"checkpoint {path} cannot be loaded ({error}){hint}{there}") from error


def _step(file: Path) -> int:
    """After how many steps a checkpoint was written."""
    return int(file.stem.rpartition("-")[2])


def whole(file: Path) -> bool:
    """Whether a checkpoint can be read."""
    try:
        read_tensors(file)
    except ArtifactError:
        return False
    return True
