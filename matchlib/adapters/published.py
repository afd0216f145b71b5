"""Checkpoints of DiT and SiT, by the names and shapes of their weights.

References:
    Peebles, Xie, "Scalable Diffusion Models with Transformers", 2022, https://arxiv.org/abs/2212.09748
    Ma, Goldstein, Albergo, Boffi, Vanden-Eijnden, Xie, "SiT: Exploring Flow and Diffusion-based Generative Models with Scalable
    Interpolant Transformers", 2024, https://arxiv.org/abs/2401.08740
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.adapters.flows import flow_matching
from matchlib.adapters.networks import describe
from matchlib.adapters.pipelines import LATENTS, noise_schedule
from matchlib.algebra.records import Condition
from matchlib.errors import IncompatibleError
from matchlib.fields.preconditioned import NetworkSpec
from matchlib.fields.teacher import Teacher
from matchlib.io import at_most, read_checkpoint
from matchlib.registry import networks

__all__ = ["PublishedDiT", "dit", "of_dit", "of_sit", "sit"]

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # of the published sizes, by their width
EACH = 64  # width of a head elsewhere
ARGUMENTS = ("state", "time", "label")
BETAS = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}  # of DiT


class PublishedDiT(nn.Module):
    """The registered network ``dit``, called as ``net(state, time, label)``; a variance that it predicts besides is left out.

    Args:
        shape: of an event, ``(channels, height, width)``.
        classes: without the one that stands for no class.
        answers: 2 with a learned variance, else 1.
        patch, width, depth, heads, mlp_ratio: of the network.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, answers: int, patch: int, width: int, depth: int, heads: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        sizes = {"patch": patch, "width": width, "depth": depth, "heads": heads, "mlp_ratio": mlp_ratio}
        self.config: dict[str, Any] = {"shape": list(shape), "classes": classes, "answers": answers, **sizes}
        spec = NetworkSpec(tuple(shape), classes, heads=answers)
        self.net: nn.Module = networks.build({"name": "dit", "time_scale": 1.0, **sizes}, spec)

    def forward(self, state: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        answer: Tensor = self.net(state, time, Condition(label))
        return answer[:, 0] if self.config["answers"] > 1 else answer


def dit(path: str | Path, *, heads: int | None = None, entry: str = "", normalization: tuple[float, float] | None = LATENTS) -> Teacher:
    """Returns the teacher of a checkpoint of DiT: epsilon at the thousand levels of DDPM.

    Args:
        path: ``.safetensors``, or what ``torch.save`` wrote, of which no code is run.
        heads: of each attention, which weights do not tell; None for those of the published size, or a head for 64 units.
        entry: keys that lead to the weights in the file, with dots, such as ``ema``; empty for the top.
        normalization: as for ``Teacher``; by default latents, as ``matchlib prepare --encode`` writes them.

    Raises:
        ArtifactError: the file cannot be read.
        IncompatibleError: its weights are not those of a DiT with classes.
    """
    return _of_file("dit", of_dit, path, heads, entry, normalization)


def sit(path: str | Path, *, heads: int | None = None, entry: str = "", normalization: tuple[float, float] | None = LATENTS) -> Teacher:
    """Returns the teacher of a checkpoint of SiT with the linear path: the velocity along a time that runs to the data; see ``dit``."""
    return _of_file("sit", of_sit, path, heads, entry, normalization)


def of_dit(network: PublishedDiT, *, normalization: tuple[float, float] | None = LATENTS) -> Teacher:
    """Returns the teacher that a network is which predicts epsilon at the levels 0 to 999 of betas from 1e-4 to .02."""
    return _described("dit", noise_schedule(network, BETAS, ARGUMENTS, normalization), network)


def of_sit(network: PublishedDiT, *, normalization: tuple[float, float] | None = LATENTS) -> Teacher:
    """Returns the teacher that a network is which predicts data - noise at ``time data + (1 - time) noise``."""
    return _described("sit", flow_matching(network, arguments=ARGUMENTS, normalization=normalization), network)


def _described(adapter: str, teacher: Teacher, network: PublishedDiT) -> Teacher:
    settings = {"normalization": None if teacher.normalization is None else list(teacher.normalization)}
    teacher.origin = {"adapter": adapter, "network": describe(network), "settings": settings}
    return teacher


def _of_file(
    adapter: str, make: Any, path: str | Path, heads: int | None, entry: str, normalization: tuple[float, float] | None
) -> Teacher:
    file = Path(path).expanduser()
    tensors = read_checkpoint(file, entry)
    try:
        config = _config({name: x.shape for name, x in tensors.items()}, heads)
        with torch.device("meta"), at_most(len(tensors)):
            wanted = {name: x.shape for name, x in PublishedDiT(**config).net.state_dict().items()}
    except (LookupError, ArithmeticError, ValueError, TypeError, RuntimeError) as error:
        raise IncompatibleError(f"{file} does not hold the weights of a {adapter} with classes: no {error}") from error
    misfits = [
        name for name in sorted(wanted.keys() | tensors.keys()) if name not in wanted or tensors.get(name, _NONE).shape != wanted[name]
    ]
    if misfits:
        raise IncompatibleError(f"{file} does not hold the weights of a {adapter} with classes: {', '.join(misfits[:3])} do not fit")
    network = PublishedDiT(**config)
    network.net.load_state_dict(tensors)
    teacher: Teacher = make(network, normalization=normalization)
    return teacher


_NONE = torch.zeros(0)


def _config(shapes: Mapping[str, torch.Size], heads: int | None) -> dict[str, Any]:
    """Returns the arguments of ``PublishedDiT`` that give weights of these shapes."""
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    side = math.isqrt(shapes["pos_embed"][1]) * patch
    depth = 1 + max((int(name.split(".")[1]) for name in shapes if name.startswith("blocks.")), default=0)
    answers = shapes["final_layer.linear.weight"][0] // (patch * patch * channels)
    return {
        "shape": (channels, side, side),
        "classes": shapes["y_embedder.embedding_table.weight"][0] - 1,
        "answers": answers,
        "patch": patch,
        "width": width,
        "depth": depth,
        "heads": heads or HEADS.get(width) or max(width // EACH, 1),
        "mlp_ratio": shapes["blocks.0.mlp.fc1.weight"][0] / width,
    }
