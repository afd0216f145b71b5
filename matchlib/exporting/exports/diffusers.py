"""A pipeline of diffusers: of its own classes where they compute the same, else with a ``pipeline.py`` beside the weights."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from matchlib.adapters import OfDiffusers
from matchlib.distillation.start import GaussianStart
from matchlib.errors import IncompatibleError, MatchlibError
from matchlib.exporting.exporter import Exportable, Exporter, Inputs
from matchlib.exporting.table import Call, Combination, Label, Table, Time
from matchlib.io import read_json, write_json, write_tensors
from matchlib.registry import exports
from matchlib.training.random import Streams

__all__ = ["Diffusers"]

INDEX = "model_index.json"
PIPELINE, START = (Path(__file__).parents[1] / f"{name}.py" for name in ("generator_pipeline", "gaussian_start"))  # copied into folders
OWN = "GeneratorPipeline"  # the class in pipeline.py
CLOSE = 1e-5  # difference of two numbers that are the same but for rounding


@exports.register("diffusers")
@dataclass(frozen=True)
class Diffusers(Exporter):
    """A folder for ``DiffusionPipeline.from_pretrained``, of a student whose network is a ``UNet2DModel`` or ``DiTTransformer2DModel``.

    Args:
        stock: whether diffusers' own pipelines are used where they are exact; they need no ``trust_remote_code``, clip what they
            generate, and accept other numbers of steps, which the pipeline in ``pipeline.py`` refuses.
    """

    library: ClassVar[str] = "diffusers"
    stock: bool = True

    def write(self, student: Exportable, folder: Path) -> None:
        package = _package()
        core = _core(student, package)
        pipeline = _stock_pipeline(package, student, core) if self.stock else None
        if pipeline is not None:
            pipeline.save_pretrained(folder)
            return
        core.network.save_pretrained(folder / core.folder)
        if student.start is not None:
            _save_start(student.start, folder / "start")
        codec = student.pipeline.codec
        if codec is not None and codec.component is not None:
            codec.saved(folder, codec.component[0])
        shutil.copyfile(PIPELINE, folder / "pipeline.py")
        write_json(folder / INDEX, _index(student, core, package))

    def samples(self, student: Exportable, folder: Path, inputs: Inputs) -> Tensor:
        package = _package()
        with _quiet(package):
            pipeline = package.DiffusionPipeline.from_pretrained(folder, trust_remote_code=not _is_stock(folder), low_cpu_mem_usage=False)
        pipeline.set_progress_bar_config(disable=True)
        n, labels = len(inputs.source), {} if inputs.label is None else {"class_labels": inputs.label}
        if not _is_stock(folder):
            return pipeline(n, latents=inputs.source, noises=inputs.noises, output_type="latent", **labels).images
        generator = Streams(inputs.seed, torch.device("cpu"))("sample", 0)  # from which ``Pipeline.sample`` draws the source
        images = pipeline(n, num_inference_steps=1, generator=generator, output_type="pt", **labels).images
        images = images if isinstance(images, Tensor) else torch.as_tensor(images)
        data = student.config.data
        return data.shift + data.scale * (2 * images - 1)

    def expected(self, student: Exportable, folder: Path, inputs: Inputs) -> Tensor:
        """Returns the samples; where diffusers clips images, clipped."""
        data = student.config.data
        return inputs.expected.clamp(data.shift - data.scale, data.shift + data.scale) if _is_stock(folder) else inputs.expected

    def usage(self, student: Exportable, folder: Path) -> str:
        trust = "" if _is_stock(folder) else ", trust_remote_code=True"
        steps = student.student.nfe
        return (
            "from diffusers import DiffusionPipeline\n\n"
            f'pipeline = DiffusionPipeline.from_pretrained("FOLDER"{trust})\n'
            f"images = pipeline(batch_size=4, num_inference_steps={steps}).images"
        )


def _save_start(start: GaussianStart, folder: Path) -> None:
    """Writes a start as a component of a pipeline, with the code that reads it."""
    folder.mkdir()
    write_tensors(folder / "diffusion_pytorch_model.safetensors", start.state_dict())
    write_json(folder / "config.json", {"_class_name": "GaussianStart", "count": start.axes.shape[0], "size": start.axes.shape[1]})
    shutil.copyfile(START, folder / START.name)


def _package() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MatchlibError("an export to diffusers needs the extra 'diffusers': pip install diffusers") from error
    return diffusers


@contextmanager
def _quiet(package: Any) -> Iterator[None]:
    """A context without the bars and hints of diffusers."""
    log = package.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _is_stock(folder: Path) -> bool:
    """Whether a folder's pipeline is a class of diffusers."""
    return isinstance(read_json(folder / INDEX)["_class_name"], str)


@dataclass(frozen=True)
class _Core:
    """A student's network of diffusers, and the table around it.

    Args:
        folder: of the pipeline, in which the network is.
    """

    network: Any
    folder: str
    table: Table


def _core(student: Exportable, package: Any) -> _Core:
    """Returns the student's network of diffusers.

    Raises:
        IncompatibleError: its network is another, or the model is not one that a pipeline of diffusers starts from noise.
    """
    others = "export it --to onnx, --to pt2 or --to hub"
    children = [(module, name, child) for module in student.student.modules() for name, child in module.named_children()]
    bare = [(*place, place[2], "unet", _in_tuple) for place in children if isinstance(place[2], package.UNet2DModel)]
    wrapped = [
        (*place, place[2].network, place[2].folder, _as_it_is)
        for place in children
        if isinstance(place[2], OfDiffusers) and isinstance(place[2].network, package.DiTTransformer2DModel)
    ]
    if len(bare) + len(wrapped) != 1:
        kind = type(student.network).__name__
        known = "UNet2DModel or DiTTransformer2DModel"
        raise IncompatibleError(f"the student's network is {kind}, and a pipeline of diffusers needs a {known} of diffusers: {others}")
    if student.source_is_data:
        raise IncompatibleError(f"the student starts from data, and a pipeline of diffusers from noise: {others}")
    codec = student.pipeline.codec
    if codec is not None and codec.component is None:
        raise IncompatibleError(f"the codec of the student's latents is none of diffusers: {others}")
    part, name, _, network, folder, answer = (bare or wrapped)[0]
    table = student.table_around(part, name, answer=answer)
    for call in table.calls:
        if not _is_plain(call.args, call.kwargs):
            raise IncompatibleError(f"the student calls its {type(network).__name__} with more than state, time and label: {others}")
    return _Core(network, folder, table)


def _in_tuple(x: Tensor) -> tuple[Tensor]:
    return (x,)


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _is_plain(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    kinds = tuple(type(x) for x in args)
    return kinds in ((Combination, Time), (Combination, Time, Label), (Combination, Time, type(None))) and set(kwargs) <= {"return_dict"}


def _labelled(call: Call) -> bool:
    return any(isinstance(x, Label) for x in call.args)


def _index(student: Exportable, core: _Core, package: Any) -> dict[str, Any]:
    """Returns ``model_index.json`` of the pipeline in ``pipeline.py``."""
    data, table, codec = student.config.data, core.table, student.pipeline.codec
    decoder = {} if codec is None or codec.component is None else {codec.component[0]: ["diffusers", codec.component[1]]}
    calls = [{"timestep": call.args[1].value, "input": dict(call.args[0].weights), "labelled": _labelled(call)} for call in table.calls]
    return {
        "_class_name": ["pipeline", OWN],
        "_diffusers_version": package.__version__,
        core.folder: ["diffusers", type(core.network).__name__],
        **decoder,
        **({} if student.start is None else {"start": [START.stem, "GaussianStart"]}),
        "calls": calls,
        "sample": dict(table.sample.weights),
        "noises": list(table.noises),
        "shape": list(student.config.network_spec.shape),
        "normalization": [data.shift, data.scale],
        "limits": list(data.limits),
        "label_shares": None if data.label_shares is None else list(data.label_shares),
    }


# -- pipelines of diffusers ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _OneCall:
    """A student of one evaluation from its source alone: ``sample = source * noise + prediction * network(start * noise, timestep)``."""

    start: float
    timestep: int
    source: float
    prediction: float
    labelled: bool


def _simple(table: Table) -> _OneCall | None:
    """Returns a table as one evaluation at a whole timestep; None if it is anything else."""
    if len(table.calls) != 1 or table.noises:
        return None
    (call,) = table.calls
    time, weights = call.args[1].value, table.sample.weights
    if abs(time - round(time)) > CLOSE or set(call.args[0].weights) != {"source"}:
        return None
    start = call.args[0].weights["source"]
    return _OneCall(start, round(time), weights.get("source", 0.0), weights.get(call.predictions[0], 0.0), _labelled(call))


def _fits_stock(student: Exportable, core: _Core) -> bool:
    """Whether images are what diffusers' own pipelines make of a U-Net: of its size, and between -1 and 1 in its units."""
    data, config = student.config.data, core.network.config
    size = config.sample_size
    low, high = ((limit - data.shift) / data.scale for limit in data.limits)
    shape = (config.in_channels, size, size)
    of_images = core.folder == "unet" and student.pipeline.codec is None and config.out_channels == config.in_channels
    return (
        of_images
        and isinstance(size, int)
        and tuple(student.config.network_spec.shape) == shape
        and max(abs(low + 1), abs(high - 1)) < CLOSE
    )


def _scheduler(student: Exportable) -> dict[str, Any]:
    """Returns the configuration of the scheduler that the teacher was opened with; empty if it has none."""
    settings = (student.config.origin or {}).get("settings") or {}
    return dict(settings.get("scheduler") or {})


def _close(*pairs: tuple[float, float]) -> bool:
    return all(math.isclose(x, y, rel_tol=CLOSE, abs_tol=CLOSE) for x, y in pairs)


def _consistency(package: Any, student: Exportable, unet: nn.Module, call: _OneCall) -> Any:
    """Returns the pipeline of a variance-preserving student that starts at level k; None if it is no such student.

    The scheduler's table ends at level k, so that its first noise has sigma_k = b/a, its input is ``b noise``, and one Euler step to
    sigma = 0 ends at the predicted data. At very much noise, diffusers' order of operations loses digits: None, too.
    """
    config = _scheduler(student)
    kind = getattr(package, str(config.get("_class_name", "")), None)
    if kind is None or not hasattr(original := kind.from_config(config), "betas"):
        return None
    levels, prediction = call.timestep + 1, config.get("prediction_type", "epsilon")
    if not 0 < levels <= len(original.betas) or prediction not in PREDICTIONS:
        return None
    scheduler = package.EulerDiscreteScheduler(
        num_train_timesteps=levels,
        trained_betas=original.betas[:levels].tolist(),
        prediction_type=prediction,
        timestep_spacing="trailing",
    )
    sigma = float(scheduler.init_noise_sigma)
    if sigma > NOISIEST:
        return None
    a, b = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
    wanted = PREDICTIONS[prediction](a, b)
    if not _close((call.start, b), (call.source, wanted[0]), (call.prediction, wanted[1])):
        return None
    return package.ConsistencyModelPipeline(unet, scheduler)


NOISIEST = 13.0  # noise over signal up to which float32 computes data from it as exactly as an export has to be
PREDICTIONS: dict[str, Callable[[float, float], tuple[float, float]]] = {  # weights of noise and prediction in the data, state = b noise
    "epsilon": lambda a, b: (b / a, -b / a),
    "v_prediction": lambda a, b: (a * b, -b),
    "sample": lambda a, b: (0.0, 1.0),
}


def _straight(package: Any, student: Exportable, unet: nn.Module, call: _OneCall) -> Any:
    """Returns the pipeline of an unconditional student that predicts a velocity at t = 1; None if it is no such student."""
    steps = int(_scheduler(student).get("num_train_timesteps", 1000))
    exact = _close((call.start, 1.0), (call.source, 1.0), (call.prediction, -1.0)) and call.timestep == steps and not call.labelled
    if not exact:
        return None
    return package.DDPMPipeline(unet, package.FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=1.0))


STOCK = (_consistency, _straight)


def _stock_pipeline(package: Any, student: Exportable, core: _Core) -> Any:
    """Returns the pipeline of diffusers that computes what the student does; None if there is none."""
    call = _simple(core.table) if student.start is None and _fits_stock(student, core) else None
    if call is None:
        return None
    pipelines = (make(package, student, core.network, call) for make in STOCK)
    return next((pipeline for pipeline in pipelines if pipeline is not None), None)
