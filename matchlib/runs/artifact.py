"""Artifacts: ``model.safetensors`` with weights and ``config.json`` that says what they are weights of.

``config.json`` names registered plugins and their settings, or network classes of a fixed list, so that loading runs no code of the file.
A network that only Python code can make is described by where it came from; it is loaded again when that code is trusted, or when the
teacher is given.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from torch import nn

from matchlib import adapters
from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.times import TimeDistribution
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.distillation.defaults import ResolvedDefaults
from matchlib.distillation.start import GaussianStart
from matchlib.distillation.student import Student
from matchlib.errors import ArtifactError, IncompatibleError, MatchlibError, SettingError
from matchlib.fields.preconditioned import ExactField, NetworkSpec, Preconditioned
from matchlib.fields.teacher import Teacher
from matchlib.io import at_most, read_json, read_tensors, tensor_shapes, write_json, write_tensors
from matchlib.registry import couplings, interpolants, networks, objectives, students
from matchlib.runs.settings import GIVEN, Axes, Plugin
from matchlib.settings import explain

__all__ = [
    "ArtifactConfig",
    "DataConfig",
    "build_field",
    "build_student",
    "dataset_of",
    "describe_model",
    "find_artifact",
    "load_artifact",
    "model_of",
    "read_config",
    "save_artifact",
    "save_average",
    "versions",
]

Spec = dict[str, Any]
Shapes = Mapping[str, torch.Size]
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1


@dataclass(frozen=True)
class _Stored(Plugin):
    """A spec as a file holds it: unlike on a command line, no text or boolean stands for a number."""

    def __call__(self, value: Any) -> Any:
        spec = super().__call__(value)
        for key, x in (value or {}).items():
            if x not in ("inf", "-inf") and any(isinstance(x, kind) != isinstance(spec[key], kind) for kind in (bool, str)):
                raise SettingError(f"{key}: {type(spec[key]).__name__} is needed, got {x!r}")
        return spec


def _codec(spec: Any) -> Any:
    return None if spec is None else _Stored("codecs")(spec)


@dataclass(frozen=True)
class DataConfig:
    """What an artifact records of its data.

    Args:
        name, options: of the data set, as in the settings.
        labels, balanced: likewise.
        shift, scale: ``data units = shift + scale * model units``, scale > 0.
        limits: least and largest number in data units.
        label_shares: frequency of each class; None without classes.
        codec: name and settings of the codec whose latents the data are; None for data as they are.
    """

    name: str
    options: Spec
    labels: bool
    balanced: bool
    shift: float
    scale: Annotated[float, Gt(0)]
    limits: tuple[float, float]
    label_shares: tuple[float, ...] | None = None
    codec: Annotated[Spec | None, BeforeValidator(_codec)] = None


@dataclass(frozen=True)
class ArtifactConfig:
    """Everything that is not a weight.

    Args:
        kind: ``teacher`` or ``student``.
        network: spec of the teacher's network; ``{"name": None}`` where it has no registered name.
        network_spec: what the network accepts.
        model: the teacher's matching model.
        moments: of data and source.
        sampler: spec; how the teacher is sampled by default.
        data: what it was made from.
        defaults: what the teacher's family recommends for its distillation.
        seed: of the run.
        student: spec of the student plugin, with ``network`` and ``objective`` if it has a network of its own; None for a teacher.
        guidance, guidance_interval: see ``Teacher``.
        label_dropout: fraction of the labels that were left out in training, None if that is not known; at 0 it cannot be guided.
        origin: where a teacher that is no registered network came from, as ``matchlib.adapters`` states it; None if only Python knows.
        settings: digest of the settings that the weights depend on.
    """

    kind: str
    network: Spec
    network_spec: NetworkSpec
    model: MatchingModel
    moments: Moments
    sampler: Spec
    data: DataConfig
    defaults: ResolvedDefaults
    seed: int
    student: Spec | None = None
    guidance: float = 1.0
    label_dropout: float | None = 0.0
    origin: Spec | None = None
    settings: str = ""
    guidance_interval: tuple[float, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form."""
        values = {key: getattr(self, key) for key in self.__dataclass_fields__}
        records = {key: asdict(getattr(self, key)) for key in RECORDS}
        return {"format": FORMAT, **values, **records, "model": describe_model(self.model), "versions": versions()}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ArtifactConfig:
        """Returns what a JSON form describes.

        A setting of a plugin that is left out has the plugin's default; every other key has to be there.

        Raises:
            MatchlibError: a key is missing, unknown or of another type, or no number; the message names it.
        """
        form = tree.get("format")
        if type(form) is not int or form != FORMAT:
            raise SettingError(f"this version reads format {FORMAT}, got format {form!r}; install the version that wrote it")
        for path in _not_finite(tree):
            raise SettingError(f"{path} is no finite number")
        try:
            file = _File.model_validate_json(json.dumps(tree), strict=True)
        except ValidationError as error:
            raise explain(error, _File) from None
        records = {**{key: getattr(file, key) for key in RECORDS}, "model": file.model}
        for path in (path for key, record in records.items() for path in _missing(record, tree[key], key)):
            raise SettingError(f"{path} is missing")
        if (file.kind == "student") != (file.student is not None):
            raise SettingError(f"student must be given for a student and null for a teacher, got {file.student!r} for a {file.kind}")
        values = {key: getattr(file, key) for key in cls.__dataclass_fields__ if key not in ("model", "origin")}
        return cls(**values, model=model_of(file.model), origin=tree["origin"])


RECORDS = ("network_spec", "moments", "data", "defaults")
OPTIONAL = ("codec", "critic_steps", "axes")  # keys that a file may lack


def _not_finite(tree: Any, path: str = "") -> Iterator[str]:
    """Yields the paths of numbers that are none, wherever they stand."""
    if isinstance(tree, float) and not math.isfinite(tree):
        yield path
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list | tuple) else ()
    for key, value in items:
        yield from _not_finite(value, f"{path}.{key}" if path else str(key))


def _missing(record: Any, tree: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yields the paths of the record's fields that a tree lacks, though they have a default in Python."""
    names = [field.name for field in fields(record)] if is_dataclass(record) else list(type(record).model_fields)
    for name in names:
        value = getattr(record, name)
        if name not in tree and name not in OPTIONAL:
            yield f"{path}.{name}"
        elif is_dataclass(value):
            yield from _missing(value, tree[name], f"{path}.{name}")


def _network(spec: Any) -> Any:
    """Returns the spec of a network; one of no registered name has no settings."""
    return spec if spec == {"name": None} else _Stored("networks")(spec)


def _axes(value: Any) -> int:
    """Returns how many axes a student's start has."""
    try:
        return TypeAdapter(Axes).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(f".axes must be a whole number from 0 to 1,023, got {value!r}") from error


def _student(spec: Any) -> Any:
    """Returns the spec of a student, with the network and the objective of its own where it has them."""
    if not isinstance(spec, Mapping):
        return spec
    checks: dict[str, Callable[[Any], Any]] = {
        "network": _Stored("networks"),
        "objective": _Stored("objectives"),
        "axes": _axes,
    }
    own = {key: check(spec[key]) for key, check in checks.items() if key in spec}
    return {**_Stored("students")({key: x for key, x in spec.items() if key not in own}), **own}


class _Origin(BaseModel):
    """The JSON form of ``Teacher.origin``."""

    model_config = ConfigDict(extra="forbid")
    adapter: str
    network: Spec | None = None
    settings: Spec | None = None
    path: str | None = None
    name: str | None = None
    digest: str | None = None


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    coupling: Annotated[Spec, BeforeValidator(_Stored("couplings"))]
    interpolant: Annotated[Spec, BeforeValidator(_Stored("interpolants"))]
    objective: Annotated[Spec, BeforeValidator(_Stored("objectives"))]
    times: TimeDistribution
    sees_source: bool


class _File(BaseModel):
    """The JSON form of an ``ArtifactConfig``."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    format: Literal[1]
    kind: Literal["teacher", "student"]
    network: Annotated[Spec, BeforeValidator(_network)]
    network_spec: NetworkSpec
    model: _Model
    moments: Moments
    sampler: Annotated[Spec, BeforeValidator(_Stored("samplers"))]
    data: DataConfig
    defaults: ResolvedDefaults
    seed: int
    student: Annotated[Spec | None, BeforeValidator(_student)]
    guidance: float
    label_dropout: float | None
    origin: _Origin | None
    settings: str
    guidance_interval: tuple[float, float] | None = None
    versions: dict[str, str]


def dataset_of(data: DataConfig) -> Dataset:
    """Returns the data set that an artifact was made from, in its units."""
    if data.name.startswith(GIVEN):
        raise ArtifactError(
            f"the data set {data.name.removeprefix(GIVEN)!r} was made in Python: give it again, data=..., or give source=..."
        )
    dataset = load_dataset(data.name, data.options)
    dataset = dataset if data.labels else dataset.without_labels()
    dataset = dataset.balanced() if data.balanced else dataset
    return dataset.normalized_as(data.shift, data.scale)


def describe_model(model: MatchingModel) -> dict[str, Any]:
    """Returns a model's JSON form."""
    return {
        "coupling": couplings.describe(model.coupling),
        "interpolant": interpolants.describe(model.interpolant),
        "objective": objectives.describe(model.objective),
        "times": asdict(model.times),
        "sees_source": model.sees_source,
    }


def model_of(spec: Any) -> MatchingModel:
    """Returns the model that its JSON form describes; the inverse of ``describe_model``."""
    file = spec if isinstance(spec, _Model) else _Model.model_validate(spec)
    return MatchingModel(
        couplings.build(file.coupling),
        interpolants.build(file.interpolant),
        objectives.build(file.objective),
        file.times,
        file.sees_source,
    )


def build_field(network: Mapping[str, Any], spec: NetworkSpec, model: MatchingModel, moments: Moments) -> nn.Module:
    """Returns a fresh field: a network, preconditioned, its weights drawn from torch's global generator; or a formula as it is."""
    if issubclass(networks[network["name"]], ExactField):
        return networks.build(network, spec, model)
    field = Preconditioned(networks.build(network, spec), model, moments)
    field.spec = dict(network)
    return field


def build_student(spec: Mapping[str, Any], teacher: Teacher, network_spec: NetworkSpec) -> Student:
    """Builds a student from ``{"name", its settings, "network", "objective" and "axes" (optional)}``.

    A network of its own predicts the data, unless ``objective`` names another row: the teacher's, say, whose weights then mean the same.
    With ``axes`` it has a ``GaussianStart`` of so many, which is still to be fitted.

    Raises:
        SettingError: axes for a student whose ``start`` is no ``nn.Identity()`` to be replaced.
    """
    field = None
    if spec.get("network") is not None:
        network, model = _own_field(spec, teacher.model)
        field = build_field(network, replace(network_spec, heads=len(model.objective.heads)), model, teacher.moments)
    student = students.build({key: value for key, value in spec.items() if key not in ("network", "objective", "axes")}, teacher, field)
    if axes := spec.get("axes", 0):
        if not isinstance(getattr(student, "start", None), nn.Identity):
            raise SettingError(
                f"student.axes={axes}: {spec['name']} has no attribute start, by which axes of the data would shape its source; set "
                "student.axes=0, and student.t_start later, to where noise over signal is the largest scale of the data"
            )
        student.start = GaussianStart(network_spec.shape, axes)
    return student


def _own_field(spec: Mapping[str, Any], model: MatchingModel) -> tuple[Spec, MatchingModel]:
    """Returns the network of a student's own, and the model whose row it predicts."""
    return spec["network"], replace(model, objective=objectives.build(spec.get("objective") or {"name": "data"}))


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    try:
        matchlib = version("matchlib-torch")
    except PackageNotFoundError:
        matchlib = "source"
    return {"matchlib": matchlib, "torch": torch.__version__, "python": platform.python_version()}


def save_artifact(folder: Path, config: ArtifactConfig, module: nn.Module) -> None:
    """Writes weights, then the configuration: a folder with a configuration is whole."""
    write_tensors(folder / WEIGHTS, module.state_dict())
    write_json(folder / CONFIG, config.to_json())


def save_average(folder: Path, decay: float, module: nn.Module) -> None:
    """Writes further averaged weights of a module beside those of its artifact."""
    write_tensors(folder / f"ema-{decay}.safetensors", module.state_dict())


def find_artifact(path: str | Path, *kinds: str) -> Path | None:
    """Returns the first folder of an artifact: ``path`` itself, or the first of ``path/kind``; None if there is none."""
    folder = Path(path).expanduser()
    places = [folder, *(folder / kind for kind in kinds)]
    return next((place for place in places if (place / CONFIG).is_file()), None)


def read_config(folder: Path) -> ArtifactConfig:
    """Reads the description in an artifact's folder.

    Raises:
        ArtifactError: it is missing or damaged, or a key or value is not as it has to be.
    """
    try:
        return ArtifactConfig.from_json(read_json(folder / CONFIG))
    except ArtifactError:
        raise
    except MatchlibError as error:
        raise ArtifactError(f"{folder / CONFIG} does not describe a model: {error}") from error


def load_artifact(
    folder: Path, *, ema: float | None = None, teacher: Teacher | None = None, trust: bool = False
) -> tuple[ArtifactConfig, Teacher | Student]:
    """Reads an artifact.

    Args:
        ema: decay of the average whose weights to read; None for the artifact's own.
        teacher: the teacher that was distilled or saved, where its network was made in Python.
        trust: whether code that the configuration names may be run.

    Raises:
        ArtifactError: a file is missing or damaged, the weights do not fit, or the network cannot be made from what is given.
    """
    config = read_config(folder)
    weights = folder / (WEIGHTS if ema is None else f"ema-{ema}.safetensors")
    if ema is not None and not weights.exists():
        there = ", ".join(sorted(file.stem.removeprefix("ema-") for file in folder.glob("ema-*.safetensors")))
        raise ArtifactError(
            f"{folder} has no average of decay {ema} (there are: {there or 'none'}); trainer.extra_ema_decays asks for some"
        )
    stored = tensor_shapes(weights)
    try:
        _check_shapes(config, stored)
        module = _module_of(config, folder, teacher, trust, stored)
        tensors, _ = read_tensors(weights)
        _check_tensors(module, tensors)
        module.load_state_dict(tensors)
    except ArtifactError as error:
        if str(folder) in str(error):
            raise
        raise ArtifactError(f"the network in {folder} cannot be made of its {CONFIG}: {error}") from error
    except (MatchlibError, RuntimeError, TypeError, ValueError, KeyError) as error:
        first = str(error).splitlines()[-1].strip()
        raise ArtifactError(f"the weights in {weights} do not fit its {CONFIG}: {first}") from error
    return config, module


# -- weights ---------------------------------------------------------------------------------------------------------------


def _check_shapes(config: ArtifactConfig, stored: Shapes) -> None:
    """Compares the shapes that the configuration describes with the file's, before any memory is taken.

    Raises:
        IncompatibleError: a tensor has another shape, or there are many more tensors than in the file.
    """
    axes, held = (config.student or {}).get("axes", 0), tuple(stored.get("start.axes", ()))
    if axes and held != (wanted := (axes, math.prod(config.network_spec.shape))):
        raise IncompatibleError(f"start.axes has shape {held} in the file, and {wanted} by its configuration")
    make = _network_maker(config)
    if make is None:
        return
    try:
        with torch.device("meta"), at_most(len(stored)):
            network = make()
    except (RuntimeError, TypeError) as error:
        if "meta" in str(error):  # a constructor that reads numbers of its tensors is called with memory alone
            return
        raise
    other = _misfit(network, stored)
    if other is not None:
        raise IncompatibleError(other)
    beside, there = sum(x.numel() for x in network.buffers()), sum(map(math.prod, stored.values()))
    if beside > 4 * there + SPARE:
        raise IncompatibleError(f"the network has {beside:,} numbers beside its weights, and the file {there:,} in all")


SPARE = 1 << 22  # numbers that a network may compute when it is made, such as places of patches


def _network_maker(config: ArtifactConfig) -> Callable[[], nn.Module] | None:
    """Returns what makes the network of registered or listed classes that the weights belong to; None for code that only Python has."""
    if (config.student or {}).get("network") is None and config.network["name"] is None:
        description = (config.origin or {}).get("network")
        return None if description is None else lambda: adapters.build(description)
    student = config.student or {}
    own = student.get("network") is not None
    spec, model = _own_field(student, config.model) if own else (config.network, config.model)
    network_spec = replace(config.network_spec, heads=len(model.objective.heads))
    more = (model,) if issubclass(networks[spec["name"]], ExactField) else ()
    return lambda: networks.build(spec, network_spec, *more)


def _misfit(network: nn.Module, stored: Shapes) -> str | None:
    """Returns what is wrong with the first tensor of a network that a file does not hold in its shape; None if all fit.

    A network is a part of the module whose tensors are stored, so that its names are the ends of theirs.
    """
    expected = {name: x.shape for name, x in network.state_dict().items()}
    if not expected:
        return None
    first = next(iter(expected))
    prefixes = [name.removesuffix(first) for name in stored if name == first or name.endswith(f".{first}")]
    misfits = [[name for name, shape in expected.items() if stored.get(prefix + name) != shape] for prefix in prefixes]
    best = min(range(len(prefixes)), key=lambda i: len(misfits[i]), default=None)
    if best is None:
        return f"the file has no {first}"
    if not misfits[best]:
        return None
    name = misfits[best][0]
    there = stored.get(prefixes[best] + name)
    if there is None:
        return f"the file has no {name}"
    return f"{name} has shape {tuple(there)} in the file and {tuple(expected[name])} in the network"


def _check_tensors(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Compares names, shapes and types; ``load_state_dict`` would convert other types silently.

    Raises:
        IncompatibleError: naming the first tensor that is not as it should be.
    """
    expected = module.state_dict()
    missing, unused = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unused:
        raise IncompatibleError(f"the file has no {min(missing)}" if missing else f"{min(unused)} has no place in the network")
    for name, x in expected.items():
        found = tensors[name]
        if (found.shape, found.dtype) != (x.shape, x.dtype):
            there, wanted = (f"{str(y.dtype).removeprefix('torch.')} {tuple(y.shape)}" for y in (found, x))
            raise IncompatibleError(f"{name} is {there}, and the network has {wanted}")


# -- modules ---------------------------------------------------------------------------------------------------------------


def _module_of(config: ArtifactConfig, folder: Path, teacher: Teacher | None, trust: bool, stored: Shapes) -> Teacher | Student:
    """Returns the module that a configuration describes; what stands in the way is told as it is."""
    try:
        return _build(config, folder, teacher, trust, stored)
    except ArtifactError:
        raise
    except MatchlibError as error:
        raise ArtifactError(f"the network in {folder} cannot be made: {error}") from error


def _build(config: ArtifactConfig, folder: Path, given: Teacher | None, trust: bool, stored: Shapes) -> Teacher | Student:
    """Returns the module that a configuration describes, with weights still to be loaded."""
    alone = config.student is not None and config.student.get("network") is not None  # such a student needs no field of the teacher
    if alone:
        field: nn.Module = nn.Identity()
    elif config.network.get("name") is not None:
        field = build_field(config.network, config.network_spec, config.model, config.moments)
    else:
        field = _foreign_field(config, folder, given, trust, stored)
    teacher = Teacher(field, config.model, config.moments, config.guidance, guidance_interval=config.guidance_interval)
    return teacher if config.student is None else build_student(config.student, teacher, config.network_spec)


def _foreign_field(config: ArtifactConfig, folder: Path, given: Teacher | None, trust: bool, stored: Shapes) -> nn.Module:
    """Returns the field of a teacher from outside: that of the given one if the weights are of its network, else made again."""
    other = None if given is None else _misfit(given.field, stored)
    if given is not None and other is None:
        return given.field
    if config.origin is not None:
        return adapters.rebuild(config.origin, trust=trust).field
    if other is not None:
        raise ArtifactError(f"{folder} holds weights of another network than the teacher's: {other}; give the teacher they were made with")
    calls = "matchlib.load(RUN, teacher=...) or matchlib.evaluate(RUN, teacher=...)"
    raise ArtifactError(f"the network in {folder} was made in Python: give its teacher, {calls}")
