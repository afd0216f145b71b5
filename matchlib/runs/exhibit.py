"""What a run's page shows and no other file holds: samples from the same sources, trajectories in the plane, the machine, the time."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matchlib.data.dataset import Dataset
from matchlib.errors import ArtifactError
from matchlib.io import read_tensors, write_tensors
from matchlib.runs.artifact import describe_model, versions
from matchlib.runs.pipeline import Pipeline

__all__ = ["EXHIBIT", "Exhibit", "exhibit", "machine", "peak_memory"]

EXHIBIT = "report.safetensors"
NUMBERS = 2**20  # at most, in the samples of one kind
MOST, LEAST, POINTS = 64, 4, 500  # samples of one kind
TRAJECTORIES = 24  # of each kind, in the plane


@dataclass(frozen=True)
class Exhibit:
    """What ``report.safetensors`` holds.

    Args:
        tensors: ``data``, ``teacher``, ``student`` and perhaps ``source`` in data units, decoded; ``trajectory/KIND`` in model units.
        about: plain values: the model, the machine, seconds of each phase, peak memory.
    """

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes it into a run's folder."""
        write_tensors(folder / EXHIBIT, self.tensors, {"about": json.dumps(self.about, default=str)})

    @classmethod
    def read(cls, folder: Path) -> Exhibit:
        """Reads that of a run's folder; empty where there is none that can be read."""
        try:
            tensors, note = read_tensors(folder / EXHIBIT)
            about = json.loads(note.get("about", "{}"))
        except (ArtifactError, ValueError, RecursionError):
            return cls()
        return cls(tensors, about if isinstance(about, dict) else {})


def exhibit(pipelines: Mapping[str, Pipeline], dataset: Dataset, seed: int) -> dict[str, Tensor]:
    """Returns held-out data and what every pipeline makes of the same sources and labels.

    Args:
        pipelines: ``teacher`` and ``student``, or one of them.
        seed: of sources and samples.
    """
    held_out, size = dataset.held_out, dataset.decode(dataset.held_out.data[:1]).numel()
    planar = size == 2
    n = min(POINTS if planar else max(LEAST, min(MOST, NUMBERS // size)), len(held_out.data))
    result = {"data": dataset.decode(held_out.data[:n])}
    sources = next(iter(pipelines.values())).sources(n, seed=seed) if pipelines else None
    for kind, pipeline in pipelines.items():
        assert sources is not None
        if pipeline.config.model.coupling.reads_source and sources.source is not None:
            result["source"] = dataset.decode(sources.source)
        batch = pipeline.sample_batch(n, seed=seed, labels=sources.label, source=sources.source)
        result[kind] = dataset.decode(batch.data)
        if planar:
            few = type(sources)(*(None if x is None else x[:TRAJECTORIES] for x in (sources.data, sources.source, sources.label)))  # type: ignore[arg-type]
            result[f"trajectory/{kind}"] = pipeline.trajectory(few, seed=seed).flatten(2)
    return {name: x.detach().cpu() for name, x in result.items()}


def description(config: Any, modules: Mapping[str, torch.nn.Module], limits: tuple[float, float]) -> dict[str, Any]:
    """Returns what a page says of the networks: the model, specs, numbers of weights; and the limits of what it shows."""
    return {
        "model": describe_model(config.model),
        "network": config.network or _of_the_user(modules["teacher"]),
        "shape": list(config.network_spec.shape),
        "classes": config.network_spec.classes,
        "sampler": config.sampler,
        "guidance": config.guidance,
        "limits": list(limits),
        "weights": {name: sum(w.numel() for w in module.parameters()) for name, module in modules.items()},
        "versions": versions(),
    }


def _of_the_user(teacher: torch.nn.Module) -> str:
    """What a teacher's network is called that matchlib did not make."""
    kinds = (type(module) for module in teacher.modules())
    return next((kind.__name__ for kind in kinds if kind.__module__.split(".")[0] != "matchlib"), "a function")


def machine(device: torch.device) -> dict[str, Any]:
    """Returns what a run was computed on."""
    import os

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": f"{device} ({name})", "system": platform.platform(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def peak_memory(device: torch.device) -> dict[str, int]:
    """Returns the most bytes that the process has held, on the host and on a CUDA device."""
    peak = {"device": torch.cuda.max_memory_allocated(device)} if device.type == "cuda" else {}
    if sys.platform == "win32":
        return peak
    import resource

    return {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024), **peak}
