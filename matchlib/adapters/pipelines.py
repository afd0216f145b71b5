"""Pipelines of diffusers, of images or of latents, from a folder on this machine.

References:
    von Platen et al., "Diffusers: State-of-the-art diffusion models", 2022, https://github.com/huggingface/diffusers
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matchlib.adapters.components import digest_of, read_component
from matchlib.adapters.denoisers import EDMPrecond, edm
from matchlib.adapters.networks import describe
from matchlib.algebra.model import MatchingModel
from matchlib.algebra.times import TimeDistribution
from matchlib.errors import ArtifactError, IncompatibleError
from matchlib.fields.conditions import Conditions, with_nothing
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json
from matchlib.registry import couplings, families, interpolants, objectives

__all__ = ["LATENTS", "OfDiffusers", "diffusers", "noise_schedule", "of_model"]

Units = tuple[float, float]  # (shift, scale)
ROWS = {"epsilon": "source", "sample": "data", "v_prediction": "v"}  # diffusers' prediction types and our rows
IMAGES = (127.5, 127.5)  # 8-bit images, scaled to [-1, 1]
LATENTS = (0.0, 1.0)  # latents, as a codec scales them
LARGEST = 1 << 24  # numbers of the conditions of a sample


class OfDiffusers(nn.Module):
    """A network of diffusers that answers with a tensor in the shape of its state: of a learned variance nothing is left.

    Attributes:
        folder: where a pipeline has it.
    """

    folder: ClassVar[str] = "unet"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        setattr(self, self.folder, network)

    @property
    def network(self) -> Any:
        return getattr(self, self.folder)

    @property
    def arguments(self) -> tuple[str, ...]:
        """What it takes by position."""
        return ("state", "time")

    def check(self, scheduler: Mapping[str, Any]) -> None:
        """Refuses channels that are neither the state's nor those and a learned variance."""
        config = self.network.config
        wide = config["out_channels"] == 2 * config["in_channels"] and str(scheduler.get("variance_type", "")).startswith("learned")
        if config["out_channels"] != config["in_channels"] and not wide:
            raise IncompatibleError(
                f"the {type(self.network).__name__} answers {config['in_channels']} channels with {config['out_channels']} (a learned "
                "variance? the scheduler's variance_type says no); a teacher answers in the shape of its state: wrap it and use "
                "Teacher.from_callable"
            )


class _UNet(OfDiffusers):
    """A UNet2DModel."""

    @property
    def arguments(self) -> tuple[str, ...]:
        config = self.network.config
        return ("state", "time", "label") if config.get("num_class_embeds") or config.get("class_embed_type") else ("state", "time")

    def forward(self, state: Tensor, time: Tensor, *label: Tensor) -> Tensor:
        return self.network(state, time, *label, return_dict=False)[0][:, : state.shape[1]]


class _DiT(OfDiffusers):
    """A DiTTransformer2DModel: a label that is missing is the class behind the last one, which it was trained with."""

    folder = "transformer"

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("state", "time", "label")

    def check(self, scheduler: Mapping[str, Any]) -> None:
        config = self.network.config
        if config["out_channels"] not in (None, config["in_channels"], 2 * config["in_channels"]):
            super().check(scheduler)

    def forward(self, state: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        nothing = self.network.config["num_embeds_ada_norm"]
        label = torch.full(time.shape, nothing, device=state.device) if label is None else label.where(label >= 0, nothing)
        return self.network(state, timestep=time, class_labels=label, return_dict=False)[0][:, : state.shape[1]]


Nothing = Tensor | Mapping[str, Tensor]


class _Conditioned(OfDiffusers):
    """A UNet2DConditionModel: labels are embeddings ``(b, tokens, width)`` of what it is told, such as a text, or several in one.

    Args:
        nothing: the null condition, ``(tokens, width)``, which stands for labels that are missing; None if it is not known. By name
            for a network of several conditions, ``text``, ``pooled`` and ``time_ids``, whose labels ``Conditions.pack`` makes.
    """

    nothing: Tensor | None

    def __init__(self, network: nn.Module, nothing: Nothing | None = None) -> None:
        super().__init__(network)
        self.conditions: Conditions | None = None
        if isinstance(nothing, Mapping):
            self.conditions = Conditions({name: tuple(x.shape) for name, x in nothing.items()})
            nothing = self.conditions.pack(**{name: x[None] for name, x in nothing.items()})[0]
        self.register_buffer("nothing", nothing)

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("state", "time", "label")

    def check(self, scheduler: Mapping[str, Any]) -> None:
        config = self.network.config
        more = [key for key in ("class_embed_type", "num_class_embeds") if config.get(key)]
        kind, names = config.get("addition_embed_type"), [] if self.conditions is None else sorted(self.conditions.shapes)
        if more or kind not in (None, "text_time"):
            raise IncompatibleError(
                f"a UNet2DConditionModel with {', '.join(more) or f'addition_embed_type {kind}'} takes conditions that are not known here; "
                "use Teacher.from_callable with matchlib.fields.conditions.Conditioned"
            )
        wanted = ["pooled", "text", "time_ids"] if kind else []
        if names != wanted:
            raise IncompatibleError(
                "this UNet2DConditionModel takes several conditions: give those of nothing by name, nothing={'text': ..., 'pooled': ..., "
                "'time_ids': ...}"
                if wanted
                else f"this UNet2DConditionModel takes one condition, got {', '.join(names)}"
            )
        super().check(scheduler)

    def forward(self, state: Tensor, time: Tensor, label: Tensor | None = None) -> Tensor:
        label = with_nothing(label, self.nothing, state.shape[0])  # len() would fix it for torch.export
        given = {"text": label} if self.conditions is None else self.conditions.unpack(label)
        added = {} if self.conditions is None else {"added_cond_kwargs": {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}}
        return self.network(state, time, encoder_hidden_states=given["text"], return_dict=False, **added)[0][:, : state.shape[1]]


NETWORKS: dict[str, type[OfDiffusers]] = {"UNet2DModel": _UNet, "UNet2DConditionModel": _Conditioned, "DiTTransformer2DModel": _DiT}


def diffusers(folder: str | Path, *, normalization: Units | None = None, nothing: Nothing | None = None) -> Teacher:
    """Returns the teacher of a pipeline that ``save_pretrained`` wrote: its network and its scheduler.

    Args:
        folder: with ``unet/`` (a ``UNet2DModel`` or ``UNet2DConditionModel``) or ``transformer/`` (a ``DiTTransformer2DModel``), and
            ``scheduler/``.
        normalization: as for ``Teacher``; by default 8-bit images scaled to [-1, 1], and the latents of a pipeline with ``vae/`` as
            ``matchlib prepare --encode vae:FOLDER`` writes them.
        nothing: for a ``UNet2DConditionModel`` with guidance, the null condition, ``(tokens, width)``, such as that of an empty
            text. For one of several conditions, as SDXL's, all of them by name: ``text``, ``pooled`` and ``time_ids``.

    Raises:
        ArtifactError: the folder holds no such pipeline, or not as safetensors.
        IncompatibleError: the scheduler is of a kind that is not known here, or the weights are not those of the configuration.
        MatchlibError: diffusers is not installed.
    """
    folder = Path(folder)
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")
    place = next((folder / kind.folder for kind in NETWORKS.values() if (folder / kind.folder).is_dir()), folder / "unet")
    if normalization is None:
        normalization = LATENTS if (folder / "vae").is_dir() else IMAGES
    try:
        _kind(scheduler)  # before a large network is read
        teacher = of_model(read_component(place, list(NETWORKS)), scheduler, normalization=normalization, nothing=nothing)
    except IncompatibleError as error:
        raise IncompatibleError(f"{folder}: {error}") from error
    assert teacher.origin is not None
    teacher.origin |= {"path": str(folder.absolute()), "digest": _digest(folder, place)}
    return teacher


def of_model(
    network: Any,
    scheduler: Any,
    *,
    normalization: tuple[float, float] | None = IMAGES,
    nothing: Nothing | Sequence[int] | Mapping[str, Sequence[int]] | None = None,
) -> Teacher:
    """Returns the teacher of a network of diffusers and its scheduler.

    Args:
        network: a ``UNet2DModel``, ``UNet2DConditionModel`` or ``DiTTransformer2DModel``.
        scheduler: of diffusers; or its configuration, with the name of its class as ``_class_name``.
        normalization: as for ``Teacher``; ``(0.0, 1.0)`` for latents.
        nothing: as for ``diffusers``; or shapes in the place of tensors, where these are to be loaded.

    Raises:
        IncompatibleError: the network or the scheduler is of a kind that is not known here.
        ArtifactError: the configuration lacks an entry.
    """
    if not isinstance(scheduler, Mapping):
        scheduler = {**scheduler.config, "_class_name": type(scheduler).__name__}
    make, kind = _kind(scheduler), NETWORKS.get(type(network).__name__)
    if kind is None:
        raise IncompatibleError(f"a network of diffusers is one of {', '.join(NETWORKS)}, got {type(network).__name__}")
    if nothing is not None and kind is not _Conditioned:
        raise IncompatibleError(f"nothing= is for a UNet2DConditionModel, and this is a {type(network).__name__}")
    wrapped = kind(network) if nothing is None else _Conditioned(network, _filled(nothing))
    wrapped.check(scheduler)
    try:
        teacher = make(wrapped, scheduler, wrapped.arguments, normalization)
    except KeyError as error:
        raise ArtifactError(f"the scheduler's configuration has no entry {error}") from error
    for part in teacher.field.modules():
        if hasattr(part, "dropout_prob"):  # a student's copy would hide labels in training, by random numbers that are not the run's
            vars(part)["dropout_prob"] = 0.0
    plain = {key: value for key, value in scheduler.items() if key == "_class_name" or not key.startswith("_")}
    settings: dict[str, Any] = {"scheduler": plain} if nothing is None else {"scheduler": plain, "nothing": _shapes(nothing)}
    teacher.origin = {"adapter": "diffusers", "network": describe(network), "settings": settings}
    return teacher


def _filled(nothing: Any) -> Any:
    """Tensors in the place of shapes."""
    if isinstance(nothing, Mapping):
        return {name: _filled(x) for name, x in nothing.items()}
    if isinstance(nothing, Tensor):
        return nothing
    if math.prod(nothing) > LARGEST:
        raise IncompatibleError(f"the conditions of nothing have shape {tuple(nothing)}, more than {LARGEST:,} numbers")
    return torch.zeros(*nothing)


def _shapes(nothing: Any) -> Any:
    """Shapes in the place of tensors."""
    return {name: _shapes(x) for name, x in nothing.items()} if isinstance(nothing, Mapping) else list(_filled(nothing).shape)


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


def _digest(folder: Path, place: Path) -> str:
    """SHA-256 of configuration and weights; ``place`` is the network's folder."""
    return digest_of([folder / "scheduler" / "scheduler_config.json", place / "config.json", *sorted(place.glob("*.safetensors"))])


def noise_schedule(
    network: nn.Module, config: Mapping[str, Any], arguments: tuple[str, ...], normalization: tuple[float, float] | None
) -> Teacher:
    """Returns the teacher at the noise levels of DDPM; the network counts them from 0, and our t = 0 lies before the first."""
    unread = [key for key in ("trained_betas", "rescale_betas_zero_snr", "use_flow_sigmas") if config.get(key)]
    if config.get("timestep_type") == "continuous":
        unread.append("timestep_type=continuous")
    if unread:
        raise IncompatibleError(f"{' and '.join(unread)} of a scheduler are not read; use Teacher.from_callable with a path of your own")
    steps = int(config["num_train_timesteps"])
    settings = {"kind": config["beta_schedule"], "beta_start": config["beta_start"], "beta_end": config["beta_end"], "steps": steps}
    path = interpolants.build({"name": "vp-discrete", **settings})
    objective = objectives[ROWS[config.get("prediction_type", "epsilon")]]()
    model = MatchingModel(couplings["independent"](), path, objective, TimeDistribution(1 / steps, 1.0))
    defaults = families["diffusion-vp"]().defaults(paired=False)
    return Teacher.from_callable(
        network, model, normalization=normalization, defaults=defaults, arguments=arguments, time=lambda t: steps * t - 1
    )


def _flow(
    network: OfDiffusers, config: Mapping[str, Any], arguments: tuple[str, ...], normalization: tuple[float, float] | None
) -> Teacher:
    if config.get("invert_sigmas"):
        raise IncompatibleError(
            "invert_sigmas of a scheduler is not read; give Teacher.from_callable time=lambda t: 1000 * (1 - t), output=-1.0"
        )
    steps = int(config.get("num_train_timesteps", 1000))
    model = MatchingModel(couplings["independent"](), interpolants["linear"](), objectives["velocity"]())
    return Teacher.from_callable(network, model, normalization=normalization, arguments=arguments, time=lambda t: steps * t)


def _edm(network: OfDiffusers, config: Mapping[str, Any], arguments: tuple[str, ...], normalization: Units | None) -> Teacher:
    if (kind := config.get("prediction_type", "epsilon")) not in ("epsilon", "v_prediction"):
        raise IncompatibleError(f"EDM's preconditioning is of epsilon or v_prediction, got prediction_type={kind}")
    sign = -1.0 if kind == "v_prediction" else 1.0
    levels = {name: float(config[name]) for name in ("sigma_min", "sigma_max", "sigma_data", "rho")}
    return edm(EDMPrecond(network, levels["sigma_data"], sign), arguments=arguments, normalization=normalization, **levels)


SCHEDULERS: dict[str, Callable[..., Teacher]] = {  # by the beginning of a class's name; the rest say how to step, which samplers do here
    "DDPM": noise_schedule,
    "DDIM": noise_schedule,
    "EDM": _edm,
    "FlowMatch": _flow,
    **dict.fromkeys(("Euler", "Heun", "PNDM", "LMS", "DPMSolver", "UniPC", "DEIS", "KDPM2"), noise_schedule),
}
