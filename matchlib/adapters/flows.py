"""Velocity fields along a time that runs to the data, as torchcfm, flow_matching and the RealUID release have them.

References:
    Tong et al., torchcfm, https://github.com/atong01/conditional-flow-matching
    Lipman et al., "Flow Matching Guide and Code", 2024, https://arxiv.org/abs/2412.06264 (flow_matching)
    Universal Inverse Distillation for Matching Models with Real-Data Supervision, 2025, https://arxiv.org/abs/2509.22459
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matchlib.adapters.networks import describe
from matchlib.algebra.model import MatchingModel
from matchlib.errors import ArtifactError, IncompatibleError
from matchlib.fields.teacher import Teacher
from matchlib.io import copy_fitting, read_checkpoint
from matchlib.registry import couplings, interpolants, objectives

__all__ = ["flow_matching", "realuid", "torchcfm"]

CLASSES = ("label_emb", "class_emb", "class_embedding", "map_label")  # what weights of classes are called


def _towards_data(
    adapter: str, fn: Callable[..., Any], arguments: Sequence[str], coupling: str, normalization: tuple[float, float] | None
) -> Teacher:
    """``fn`` predicts data - source on ``s data + (1 - s) source``; here t = 1 - s, so the velocity changes its sign."""
    model = MatchingModel(couplings[coupling](), interpolants["linear"](), objectives["velocity"]())
    teacher = Teacher.from_callable(fn, model, normalization=normalization, arguments=arguments, time=lambda t: 1 - t, output=-1.0)
    network = describe(fn.network if isinstance(fn, _Joined) else fn)
    if network is not None:
        teacher.origin = {"adapter": adapter, "network": network, "settings": {"arguments": list(arguments)}}
    return teacher


class _Joined(nn.Module):
    """torchcfm's ``MLP``, which takes one tensor: states of one axis, and the time behind them where it varies in time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, time: Tensor, state: Tensor) -> Tensor:
        return self.network(torch.cat([state, time[:, None]], -1) if self.network.time_varying else state)


def torchcfm(
    network: Callable[..., Any],
    *,
    arguments: Sequence[str] | None = None,
    coupling: str = "independent",
    normalization: tuple[float, float] | None = None,
) -> Teacher:
    """Returns the teacher of a network trained with torchcfm's matchers at ``sigma = 0``.

    Args:
        network: called as ``network(t, x)``, or as ``network(t, x, y)`` where it has ``num_classes``, unless ``arguments`` differ;
            torchcfm's ``MLP`` as it is.
        arguments: names of what ``network`` takes by position, as for ``Teacher.from_callable``.
        coupling: ``minibatch-ot`` for the exact optimal-transport matcher.
        normalization: as for ``Teacher``; (127.5, 127.5) for 8-bit images that were scaled to [-1, 1].
    """
    if isinstance(network, nn.Module) and type(network).__name__ == "MLP" and hasattr(network, "time_varying"):
        network = _Joined(network)
    labelled = ("label",) if getattr(network, "num_classes", None) else ()
    return _towards_data("torchcfm", network, arguments or ("time", "state", *labelled), coupling, normalization)


def flow_matching(
    model: Callable[..., Any],
    *,
    arguments: Sequence[str] = ("state", "time"),
    coupling: str = "independent",
    normalization: tuple[float, float] | None = None,
) -> Teacher:
    """Returns the teacher of a velocity model of flow_matching on its ``CondOTScheduler`` path; arguments as for ``torchcfm``."""
    return _towards_data("flow_matching", model, arguments, coupling, normalization)


def realuid(
    path: str | Path,
    network: nn.Module,
    *,
    entry: str = "ema_models.0.9999",
    arguments: Sequence[str] | None = None,
    normalization: tuple[float, float] | None = (127.5, 127.5),
) -> Teacher:
    """Returns the teacher of a checkpoint in the layout of the RealUID release.

    Args:
        path: written by ``torch.save``; read with ``weights_only=True``, so that no code of the file runs.
        network: as the checkpoint was trained (torchcfm's ``UNetModelWrapper``); entries it has no place for, such as a
            discriminator's head, are left out.
        entry: ``net_model``, or ``ema_models.DECAY``.

    Raises:
        ArtifactError: the file cannot be read safely, has no such entry, or leaves a part of the network without weights.
        IncompatibleError: the checkpoint has classes, and the network has none.
    """
    tensors, kind = read_checkpoint(path, entry), type(network).__name__
    fit, state = copy_fitting(network, tensors), network.state_dict()
    classes = [name for name in fit.unused if name not in state and name.startswith(CLASSES)]
    if classes:
        raise IncompatibleError(
            f"{path} was trained with classes ({classes[0]}, {tuple(tensors[classes[0]].shape)}) and {kind} has none; "
            "make the network with them (torchcfm: class_cond=True, num_classes=...)"
        )
    other = [name for name in fit.missing if name in tensors]
    if other:
        shapes = f"{tuple(tensors[other[0]].shape)} in the file and {tuple(state[other[0]].shape)} in the network"
        raise ArtifactError(f"{path} does not fill {kind}: {other[0]} has shape {shapes}; make the network as it was trained")
    if fit.missing:
        raise ArtifactError(f"{path} does not fill {kind}: {fit}")
    return torchcfm(network, arguments=arguments, normalization=normalization)
