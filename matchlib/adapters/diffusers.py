"""Unconditional and class-conditional image pipelines of diffusers, from a folder on this machine.

References:
    von Platen et al., "Diffusers: State-of-the-art diffusion models", 2022, https://github.com/huggingface/diffusers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from matchlib.adapters.edm import EDMPrecond, edm
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json
from matchlib.registry import couplings, families, interpolants, objectives

__all__ = ["diffusers"]

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
        CardError: the folder holds no such pipeline, or not as safetensors.
        IncompatibleError: the scheduler is of a kind that is not known here.
        MatchlibError: diffusers is not installed.
    """
    folder = Path(folder)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    kind = str(scheduler.get("_class_name", ""))
    make = next((make for name, make in SCHEDULERS.items() if kind.startswith(name)), None)
    if make is None or ("prediction_type" in scheduler and scheduler["prediction_type"] not in ROWS):
        raise IncompatibleError(
            f"{folder}: scheduler {kind or 'without a name'} with prediction {scheduler.get('prediction_type')} is not known; "
            f"there are {', '.join(SCHEDULERS)} with {', '.join(ROWS)}. Any other is made a teacher by Teacher.from_callable"
        )
    unet = _unet(folder / "unet")
    arguments = ("state", "time", "label") if unet.config.get("num_class_embeds") else ("state", "time")
    return make(_Plain(unet), scheduler, arguments, normalization)


def _unet(folder: Path) -> Any:
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise MatchlibError("this needs the package diffusers: pip install diffusers") from error
    try:
        return UNet2DModel.from_pretrained(folder, use_safetensors=True, local_files_only=True, low_cpu_mem_usage=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder} holds no UNet2DModel as safetensors: {str(error).splitlines()[0]}") from error


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
