"""Unconditional and class-conditional image pipelines of diffusers, from a folder on this machine.

References:
    von Platen et al., "Diffusers: State-of-the-art diffusion models", 2022, https://github.com/huggingface/diffusers
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from matchlib.adapters.denoisers import EDMPrecond, edm
from matchlib.adapters.networks import describe
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json
from matchlib.registry import couplings, families, interpolants, objectives

__all__ = ["diffusers", "of_unet"]

ROWS = {"epsilon": "source", "sample": "data", "v_prediction": "v"}  # diffusers' prediction types and our rows
IMAGES = (127.5, 127.5)  # 8-bit images, scaled to [-1, 1]


class _Plain(nn.Module):
    """A UNet2DModel that answers with a tensor."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, state: Tensor, time: Tensor, *label: Tensor) -> Tensor:
        return self.unet(state, time, *label, return_dict=False)[0]


def diffusers(folder: str | Path, *, normalization: tuple[float, float] | None = IMAGES) -> Teacher:
    """Returns the teacher of a pipeline that ``save_pretrained`` wrote: a ``UNet2DModel`` and its scheduler.

    Args:
        folder: with ``unet/`` and ``scheduler/``.
        normalization: as for ``Teacher``; by default 8-bit images scaled to [-1, 1].

    Raises:
        ArtifactError: the folder holds no such pipeline, or not as safetensors.
        IncompatibleError: the scheduler is of a kind that is not known here, or the weights are not those of the configuration.
        MatchlibError: diffusers is not installed.
    """
    folder = Path(folder)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    try:
        _kind(scheduler)  # before a large network is read
        teacher = of_unet(_unet(folder / "unet"), scheduler, normalization=normalization)
    except IncompatibleError as error:
        raise IncompatibleError(f"{folder}: {error}") from error
    assert teacher.origin is not None
    teacher.origin |= {"path": str(folder.absolute()), "digest": _digest(folder)}
    return teacher


def of_unet(unet: Any, scheduler: Mapping[str, Any], *, normalization: tuple[float, float] | None = IMAGES) -> Teacher:
    """Returns the teacher of a ``UNet2DModel`` and the configuration of its scheduler, ``dict(scheduler.config)``.

    Raises:
        IncompatibleError: the scheduler is of a kind that is not known here, or the network predicts a variance as well.
        ArtifactError: the configuration lacks an entry.
    """
    make, config = _kind(scheduler), unet.config
    if config["out_channels"] != config["in_channels"]:
        raise IncompatibleError(
            f"the UNet2DModel answers {config['in_channels']} channels with {config['out_channels']} (a learned variance?); "
            "a teacher answers in the shape of its state: wrap it and use Teacher.from_callable"
        )
    classes = config.get("num_class_embeds") or config.get("class_embed_type")
    try:
        teacher = make(_Plain(unet), scheduler, ("state", "time", "label") if classes else ("state", "time"), normalization)
    except KeyError as error:
        raise ArtifactError(f"the scheduler's configuration has no entry {error}") from error
    plain = {key: value for key, value in scheduler.items() if key == "_class_name" or not key.startswith("_")}
    teacher.origin = {"adapter": "diffusers", "network": describe(unet), "settings": {"scheduler": plain}}
    return teacher


def _kind(scheduler: Mapping[str, Any]) -> Callable[..., Teacher]:
    """What makes a teacher with a scheduler of this class."""
    kind = str(scheduler.get("_class_name", ""))
    make = next((make for name, make in SCHEDULERS.items() if kind.startswith(name)), None)
    if make is None or ("prediction_type" in scheduler and scheduler["prediction_type"] not in ROWS):
        raise IncompatibleError(
            f"scheduler {kind or 'without a name'} with prediction {scheduler.get('prediction_type')} is not known; "
            f"there are {', '.join(SCHEDULERS)} with {', '.join(ROWS)}. Any other is made a teacher by Teacher.from_callable"
        )
    return make


def _unet(folder: Path) -> Any:
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise MatchlibError("this needs the package diffusers: pip install diffusers") from error
    try:
        unet, loaded = UNet2DModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False, output_loading_info=True
        )
    except (OSError, ValueError, TypeError, RuntimeError, KeyError) as error:
        raise ArtifactError(f"{folder} holds no UNet2DModel as safetensors: {' '.join(str(error).split())[:300]}") from error
    for kind, names in (("no place for", loaded["unexpected_keys"]), ("no weights for", loaded["missing_keys"])):
        if names:
            raise IncompatibleError(
                f"the weights in {folder} are not those of its config.json: {kind} {', '.join(sorted(names)[:3])}"
                + (" (num_class_embeds is missing there: the network was trained with classes)" if "class_emb" in str(names) else "")
            )
    return unet


def _digest(folder: Path) -> str:
    """SHA-256 of configuration and weights."""
    digest = hashlib.sha256()
    for file in (
        folder / "scheduler" / "scheduler_config.json",
        folder / "unet" / "config.json",
        *sorted(folder.glob("unet/*.safetensors")),
    ):
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _noise_schedule(
    unet: nn.Module, config: Mapping[str, Any], arguments: tuple[str, ...], normalization: tuple[float, float] | None
) -> Teacher:
    """The thousand noise levels of DDPM; the network counts them from 0, and our t = 0 lies before the first."""
    if config.get("trained_betas") is not None or config.get("rescale_betas_zero_snr"):
        raise IncompatibleError("trained_betas and rescale_betas_zero_snr are not read; use Teacher.from_callable with a path of your own")
    steps = int(config["num_train_timesteps"])
    settings = {"kind": config["beta_schedule"], "beta_start": config["beta_start"], "beta_end": config["beta_end"], "steps": steps}
    path = interpolants.build({"name": "vp-discrete", **settings})
    objective = objectives[ROWS[config.get("prediction_type", "epsilon")]]()
    model = MatchingModel(couplings["independent"](), path, objective, TimeDistribution(1 / steps, 1.0))
    defaults = families["diffusion-vp"]().defaults(paired=False)
    return Teacher.from_callable(
        unet, model, normalization=normalization, defaults=defaults, arguments=arguments, time=lambda t: steps * t - 1
    )


def _flow(unet: nn.Module, config: Mapping[str, Any], arguments: tuple[str, ...], normalization: tuple[float, float] | None) -> Teacher:
    steps = int(config.get("num_train_timesteps", 1000))
    model = MatchingModel(couplings["independent"](), interpolants["linear"](), objectives["velocity"]())
    return Teacher.from_callable(unet, model, normalization=normalization, arguments=arguments, time=lambda t: steps * t)


def _edm(unet: nn.Module, config: Mapping[str, Any], arguments: tuple[str, ...], normalization: tuple[float, float] | None) -> Teacher:
    sign = -1.0 if config.get("prediction_type") == "v_prediction" else 1.0
    levels = {name: float(config[name]) for name in ("sigma_min", "sigma_max", "sigma_data", "rho")}
    return edm(EDMPrecond(unet, levels["sigma_data"], sign), arguments=arguments, normalization=normalization, **levels)


SCHEDULERS: dict[str, Callable[..., Teacher]] = {
    "DDPM": _noise_schedule,
    "DDIM": _noise_schedule,
    "EDM": _edm,
    "FlowMatch": _flow,
}
