"""Artifacts: ``model.safetensors`` with weights and ``config.json`` that says what they are weights of.

``config.json`` names registered plugins and their settings, or network classes of a fixed list, so that loading runs no code of the file.
A network that only Python code can make is described by where it came from; it is loaded again when that code is trusted, or when the
teacher is given.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from matchlib import adapters
from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.times import TimeDistribution
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.distillation.student import Student
from matchlib.errors import ArtifactError, MatchlibError
from matchlib.fields.preconditioned import ExactField, NetworkSpec, Preconditioned
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json, read_tensors, tensor_shapes, write_json, write_tensors
from matchlib.registry import couplings, interpolants, networks, objectives, students
from matchlib.runs.settings import GIVEN
from matchlib.settings import explain

__all__ = [
    "ArtifactConfig",
    "DataConfig",
    "DefaultsConfig",
    "build_field",
    "build_student",
    "dataset_of",
    "describe_model",
    "find_artifact",
    "load_artifact",
    "model_of",
    "save_artifact",
    "save_average",
    "versions",
]

Spec = dict[str, Any]
CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class DataConfig:
    """What an artifact records of its data.

    Args:
        name, options: of the data set, as in the settings.
        labels, balanced: likewise.
        shift, scale: ``data units = shift + scale * model units``.
        limits: least and largest number in data units.
        label_shares: frequency of each class; None without classes.
    """

    name: str
    options: Spec
    labels: bool
    balanced: bool
    shift: float
    scale: float
    limits: tuple[float, float]
    label_shares: tuple[float, ...] | None = None


@dataclass(frozen=True)
class DefaultsConfig:
    """What an artifact records of its family's defaults for distillation; the arguments are those of ``Defaults``."""

    t_start: float
    times: TimeDistribution | None
    student_lr: float
    critic_lr: float


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
        guidance: see ``Teacher``.
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
    defaults: DefaultsConfig
    seed: int
    student: Spec | None = None
    guidance: float = 1.0
    label_dropout: float | None = 0.0
    origin: Spec | None = None
    settings: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON form."""
        fields = {key: getattr(self, key) for key in self.__dataclass_fields__}
        records = {key: asdict(getattr(self, key)) for key in ("network_spec", "moments", "data", "defaults")}
        return {"format": 1, **fields, **records, "model": describe_model(self.model), "versions": versions()}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ArtifactConfig:
        """Returns what a JSON form describes.

        Raises:
            MatchlibError: a key is missing, unknown or of another type; the message names it.
        """
        try:
            file = _File.model_validate(dict(tree))
        except ValidationError as error:
            raise explain(error, _File) from None
        fields = {key: getattr(file, key) for key in cls.__dataclass_fields__ if key != "model"}
        return cls(**fields, model=model_of(file.model))


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")
    coupling: Spec
    interpolant: Spec
    objective: Spec
    times: TimeDistribution
    sees_source: bool


class _File(BaseModel):
    """The JSON form of an ``ArtifactConfig``."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())
    format: Literal[1]
    kind: Literal["teacher", "student"]
    network: Spec
    network_spec: NetworkSpec
    model: _Model
    moments: Moments
    sampler: Spec
    data: DataConfig
    defaults: DefaultsConfig
    seed: int
    student: Spec | None
    guidance: float
    label_dropout: float | None
    origin: Spec | None
    settings: str
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
    """Builds a student from ``{"name", its settings, "network" and "objective" (optional)}``.

    A network of its own predicts the data, unless ``objective`` names another row: the teacher's, say, whose weights then mean the same.
    """
    field = None
    if spec.get("network") is not None:
        model = replace(teacher.model, objective=objectives.build(spec.get("objective") or {"name": "data"}))
        field = build_field(spec["network"], replace(network_spec, heads=len(model.objective.heads)), model, teacher.moments)
    return students.build({key: value for key, value in spec.items() if key not in ("network", "objective")}, teacher, field)


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
    try:
        config = ArtifactConfig.from_json(read_json(folder / CONFIG))
    except ArtifactError:
        raise
    except MatchlibError as error:
        raise ArtifactError(f"{folder / CONFIG} does not describe a model: {error}") from error
    weights = folder / (WEIGHTS if ema is None else f"ema-{ema}.safetensors")
    if ema is not None and not weights.exists():
        there = ", ".join(sorted(file.stem.removeprefix("ema-") for file in folder.glob("ema-*.safetensors")))
        raise ArtifactError(
            f"{folder} has no average of decay {ema} (there are: {there or 'none'}); trainer.extra_ema_decays asks for some"
        )
    try:
        _check_size(config, weights)
        module = _module_of(config, folder, teacher, trust)
        tensors, _ = read_tensors(weights)
        module.load_state_dict(tensors)
    except ArtifactError:
        raise
    except (MatchlibError, RuntimeError, TypeError, ValueError, KeyError) as error:
        first = str(error).splitlines()[-1].strip()
        raise ArtifactError(f"the weights in {folder} do not fit its {CONFIG}: {first}") from error
    return config, module


def _module_of(config: ArtifactConfig, folder: Path, teacher: Teacher | None, trust: bool) -> Teacher | Student:
    """Returns the module that a configuration describes; what stands in the way is told as it is."""
    try:
        return _build(config, folder, teacher, trust)
    except ArtifactError:
        raise
    except MatchlibError as error:
        raise ArtifactError(f"the network in {folder} cannot be made: {error}") from error


def _check_size(config: ArtifactConfig, weights: Path) -> None:
    """Compares the network's size with the file's before any memory is taken."""
    spec = (config.student or {}).get("network") or config.network
    if spec.get("name") is None or issubclass(networks[spec["name"]], ExactField):
        return
    with torch.device("meta"):
        network = networks.build(spec, config.network_spec)
    described, stored = sum(x.numel() for x in network.parameters()), sum(shape.numel() for shape in tensor_shapes(weights).values())
    if described > stored:
        raise ArtifactError(f"{weights} holds {stored:,} numbers, and the network that {CONFIG} describes has {described:,}")


def _build(config: ArtifactConfig, folder: Path, given: Teacher | None, trust: bool) -> Teacher | Student:
    """Returns the module that a configuration describes, with weights still to be loaded."""
    alone = config.student is not None and config.student.get("network") is not None  # such a student needs no field of the teacher
    if alone:
        field: nn.Module = nn.Identity()
    elif config.network.get("name") is not None:
        field = build_field(config.network, config.network_spec, config.model, config.moments)
    elif given is not None:
        field = given.field
    elif config.origin is not None:
        field = adapters.rebuild(config.origin, trust=trust).field
    else:
        raise ArtifactError(f"the network in {folder} was made in Python: give its teacher, matchlib.load(RUN, teacher=...)")
    teacher = Teacher(field, config.model, config.moments, config.guidance)
    return teacher if config.student is None else build_student(config.student, teacher, config.network_spec)
