"""Networks of packages that there are adapters for, as JSON: a named class with the arguments that it is rebuilt again from.

Classes are on a fixed list, so that a description that somebody else wrote runs no other code.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from matchlib.errors import ArtifactError, MatchlibError

__all__ = ["build", "describe"]

Description = dict[str, Any]


def _of_diffusers(unet: Any) -> Description:
    return {key: value for key, value in unet.config.items() if not key.startswith("_")}


def _of_mlp(mlp: Any) -> Description:
    first, last = mlp.net[0], mlp.net[-1]
    dim = first.in_features - (1 if mlp.time_varying else 0)
    return {"dim": dim, "out_dim": last.out_features, "w": first.out_features, "time_varying": mlp.time_varying}


def _of_unet(unet: Any) -> Description:
    """The arguments of torchcfm's wrapper, read off the network; some are only in its parts."""
    parts = list(unet.modules())
    attention = [part for part in parts if type(part).__name__ == "AttentionBlock"]
    residual = [part for part in parts if type(part).__name__ == "ResBlock"]
    size = unet.image_size
    same = ("num_res_blocks", "num_heads", "num_head_channels", "num_heads_upsample", "dropout", "use_checkpoint")
    return {
        "dim": [unet.in_channels, unet.image_size, unet.image_size],
        "num_channels": unet.model_channels,
        "channel_mult": list(unet.channel_mult),
        "learn_sigma": unet.out_channels == 2 * unet.in_channels,
        "class_cond": unet.num_classes is not None,
        **({} if unet.num_classes is None else {"num_classes": unet.num_classes}),
        "attention_resolutions": ",".join(str(size // step if step else 2 * size) for step in unet.attention_resolutions),
        "use_scale_shift_norm": any(part.use_scale_shift_norm for part in residual),
        "resblock_updown": any(part.updown for part in residual),
        "use_fp16": unet.dtype == torch.float16,
        "use_new_attention_order": any(type(part.attention).__name__ == "QKVAttention" for part in attention),
        **{name: getattr(unet, name) for name in same},
    }


def _of_preconditioned(network: Any) -> Description | None:
    inner = describe(network.network)
    return None if inner is None else {"network": inner, "sigma_data": network.sigma_data, "sign": network.sign}


def _of_published(network: Any) -> Description:
    return dict(network.config)


CLASSES: dict[str, Callable[[Any], Description | None]] = {
    "diffusers:UNet2DModel": _of_diffusers,
    "diffusers:UNet2DConditionModel": _of_diffusers,
    "diffusers:DiTTransformer2DModel": _of_diffusers,
    "torchcfm.models.unet.unet:UNetModelWrapper": _of_unet,
    "torchcfm.models.models:MLP": _of_mlp,
    "matchlib.adapters.denoisers:EDMPrecond": _of_preconditioned,
    "matchlib.adapters.published:PublishedDiT": _of_published,
}


def describe(network: object) -> Description | None:
    """Returns ``{"import": "MODULE:CLASS", "config": {...}}`` of a network of a listed class; None for any other, or for a changed one."""
    kind = type(network)
    for name, config_of in CLASSES.items():
        module, _, attribute = name.partition(":")
        if kind.__name__ != attribute or kind.__module__.split(".")[0] != module.split(".")[0]:
            continue
        config = config_of(network)
        description = None if config is None else {"import": name, "config": config}
        return description if description is not None and _makes(description, network) else None
    return None


def _makes(description: Description, network: Any) -> bool:
    """Whether a description makes a network with the same class and weights of the same names and shapes."""
    with torch.device("meta"):
        rebuilt = build(description)
    shapes = [{name: x.shape for name, x in module.state_dict().items()} for module in (rebuilt, network)]
    return type(rebuilt) is type(network) and shapes[0] == shapes[1]


def build(description: Mapping[str, Any]) -> nn.Module:
    """Returns the network of a description, with fresh weights; the inverse of ``describe``.

    Raises:
        ArtifactError: its class is not listed, or does not take the arguments.
        MatchlibError: its package is not installed.
    """
    name, config = description.get("import"), description.get("config")
    if not isinstance(name, str) or name not in CLASSES or not isinstance(config, Mapping):
        raise ArtifactError(f"a network is rebuilt without --trust only of the classes {', '.join(CLASSES)} and a config, got {name!r}")
    if len(description) != 2:
        raise ArtifactError(f"a network is described by import and config, got {', '.join(description)}")
    module, _, attribute = name.partition(":")
    try:
        kind = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise MatchlibError(f"the network {name} needs the package {module.split('.')[0]}: {error}") from error
    arguments = {key: build(value) if isinstance(value, Mapping) and "import" in value else value for key, value in config.items()}
    try:
        network: nn.Module = kind(**arguments)
    except Exception as error:  # whatever a constructor of somebody else's raises
        raise ArtifactError(f"{name} cannot be rebuilt of {dict(config)}: {type(error).__name__}: {error}") from error
    return network
