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

from torch import nn

from matchlib.algebra.model import MatchingModel
from matchlib.errors import ArtifactError
from matchlib.fields.teacher import Teacher
from matchlib.io import copy_fitting, read_checkpoint
from matchlib.registry import couplings, interpolants, objectives

__all__ = ["flow_matching", "realuid", "torchcfm"]


def _towards_data(fn: Callable[..., Any], arguments: Sequence[str], coupling: str, normalization: tuple[float, float] | None) -> Teacher:
    """``fn`` predicts data - source on ``s data + (1 - s) source``; here t = 1 - s, so the velocity changes its sign."""
    model = MatchingModel(couplings[coupling](), interpolants["linear"](), objectives["velocity"]())
    return Teacher.from_callable(fn, model, normalization=normalization, arguments=arguments, time=lambda t: 1 - t, output=-1.0)


def torchcfm(
    network: Callable[..., Any],
    *,
    arguments: Sequence[str] = ("time", "state"),
    coupling: str = "independent",
    normalization: tuple[float, float] | None = None,
) -> Teacher:
    """Returns the teacher of a network trained with torchcfm's matchers at ``sigma = 0``.

    Args:
        network: called as ``network(t, x)``; with ``arguments=("time", "state", "label")`` as ``network(t, x, y)``.
        coupling: ``minibatch-ot`` for the exact optimal-transport matcher.
        normalization: as for ``Teacher``; (127.5, 127.5) for 8-bit images that were scaled to [-1, 1].
    """
    return _towards_data(network, arguments, coupling, normalization)


def flow_matching(
    model: Callable[..., Any],
    *,
    arguments: Sequence[str] = ("state", "time"),
    coupling: str = "independent",
    normalization: tuple[float, float] | None = None,
) -> Teacher:
    """Returns the teacher of a velocity model of flow_matching on its ``CondOTScheduler`` path; arguments as for ``torchcfm``."""
    return _towards_data(model, arguments, coupling, normalization)


def realuid(
    path: str | Path,
    network: nn.Module,
    *,
    entry: str = "ema_models.0.9999",
    arguments: Sequence[str] = ("time", "state"),
    normalization: tuple[float, float] | None = (127.5, 127.5),
) -> Teacher:
    """Returns the teacher of a checkpoint in the layout of the RealUID release.

    Args:
        path: written by ``torch.save``; read with ``weights_only=True``, so that no code of the file runs.
        network: as the checkpoint was trained (torchcfm's ``UNetModelWrapper``); entries it has no place for, such as a
            discriminator's head, are left out.
        entry: ``net_model``, or ``ema_models.DECAY``.

    Raises:
        CardError: the file cannot be read safely, has no such entry, or leaves a part of the network without weights.
    """
    fit = copy_fitting(network, read_checkpoint(path, entry))
    if fit.missing:
        raise ArtifactError(f"{path} does not fill {type(network).__name__}: {fit}")
    return torchcfm(network, arguments=arguments, normalization=normalization)
