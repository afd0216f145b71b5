"""Checkpoints: everything that a run needs to go on as if it had never stopped, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from matchlib.errors import CardError
from matchlib.training.algorithm import Learner
from matchlib.training.ema import EMA
from matchlib.training.files import read_tensors, write_tensors

__all__ = ["Checkpoints", "State"]


@dataclass
class State:
    """One learner in training: its module, optimiser and average."""

    learner: Learner
    optimiser: torch.optim.Optimizer
    ema: EMA

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yields every tensor of the state, named."""
        yield from ((f"module/{key}", x) for key, x in self.learner.module.state_dict().items())
        yield from ((f"ema/{i}", x) for i, x in enumerate(self.ema.average))
        yield "ema/updates", torch.tensor(self.ema.updates)
        for i, slots in self.optimiser.state_dict()["state"].items():
            yield from ((f"optimiser/{i}/{key}", torch.as_tensor(x)) for key, x in slots.items())

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state from its tensors."""
        part = {kind: {k[len(kind) + 1 :]: x for k, x in tensors.items() if k.startswith(f"{kind}/")} for kind in PARTS}
        self.learner.module.load_state_dict(part["module"])
        self.ema.updates = int(part["ema"].pop("updates"))
        for mean, saved in zip(self.ema.average, (part["ema"][str(i)] for i in range(len(part["ema"]))), strict=True):
            mean.copy_(saved)
        slots: dict[int, dict[str, Tensor]] = {}
        for key, x in part["optimiser"].items():
            index, name = key.split("/")
            slots.setdefault(int(index), {})[name] = x
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": slots})


PARTS = ("module", "ema", "optimiser")


class Checkpoints:
    """The checkpoints of one phase of a run.

    Args:
        folder: where they lie, one file each.
        phase: first part of their names.
        keep: how many of the latest are kept.
    """

    def __init__(self, folder: Path, phase: str, keep: int = 2) -> None:
        self.folder, self.phase, self.keep = folder, phase, keep

    def files(self) -> list[Path]:
        """The phase's checkpoints, oldest first."""
        return sorted(self.folder.glob(f"{self.phase}-*.safetensors"))

    def write(self, step: int, states: Mapping[str, State]) -> Path:
        """Writes the state after ``step`` steps and removes what is older than the last ``keep``."""
        path = self.folder / f"{self.phase}-{step:08d}.safetensors"
        tensors = {f"{name}/{key}": x for name, state in states.items() for key, x in state.tensors()}
        write_tensors(path, tensors, {"step": json.dumps(step), "phase": self.phase})
        for old in self.files()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def restore(self, states: Mapping[str, State]) -> int:
        """Loads the latest checkpoint, if there is one, and returns the number of steps it has behind it.

        Raises:
            CardError: it is damaged, or belongs to other networks; the message names the one before it.
        """
        files = self.files()
        if not files:
            return 0
        try:
            tensors, note = read_tensors(files[-1])
            for name, state in states.items():
                state.load({key[len(name) + 1 :]: x for key, x in tensors.items() if key.startswith(f"{name}/")})
            return int(note["step"])
        except (CardError, KeyError, RuntimeError, ValueError) as error:
            good = f"; the one before it is {files[-2]}: remove the damaged file to go on from there" if files[1:] else ""
            raise CardError(f"checkpoint {files[-1]} cannot be loaded ({error}){good}") from error
