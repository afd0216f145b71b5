"""Cards: what a saved network is, and how to make it again.

A bundle is a folder with ``model.safetensors`` and ``card.json``. A card names registered plugins and their settings, nothing else, so
that loading runs no code of the file.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matchlib.algebra.model import MatchingModel, Moments
from matchlib.algebra.times import TimeDistribution
from matchlib.data.dataset import Dataset
from matchlib.data.readers import load_dataset
from matchlib.distillation.student import Student
from matchlib.errors import ArtifactError, MatchlibError, SettingError
from matchlib.fields.preconditioned import ExactField, NetworkSpec, Preconditioned
from matchlib.fields.teacher import Teacher
from matchlib.io import read_json, read_tensors, write_json, write_tensors
from matchlib.registry import couplings, interpolants, networks, objectives, students

__all__ = [
    "ArtifactConfig",
    "build_field",
    "build_student",
    "dataset_of",
    "describe_model",
    "load_artifact",
    "model_of",
    "save_artifact",
    "times_of",
    "versions",
]


def describe_model(model: MatchingModel) -> dict[str, Any]:
    """Returns a model's JSON form."""
    return {
        "coupling": couplings.describe(model.coupling),
        "interpolant": interpolants.describe(model.interpolant),
        "objective": objectives.describe(model.objective),
        "times": asdict(model.times),
        "sees_source": model.sees_source,
    }


def times_of(spec: Mapping[str, Any]) -> TimeDistribution:
    """Returns the time density that a mapping describes."""
    try:
        log_sigma = spec.get("log_sigma")
        return TimeDistribution(**{**spec, "log_sigma": None if log_sigma is None else tuple(log_sigma)})
    except TypeError as error:
        raise SettingError(f"times has the settings t_min, t_max and log_sigma: [mean, std], got {dict(spec)}") from error


def model_of(spec: Mapping[str, Any]) -> MatchingModel:
    """Returns the model that its JSON form describes; the inverse of ``describe_model``."""
    return MatchingModel(
        couplings.build(spec["coupling"]),
        interpolants.build(spec["interpolant"]),
        objectives.build(spec["objective"]),
        times_of(spec["times"]),
        spec["sees_source"],
    )


def build_field(network: Mapping[str, Any], signature: NetworkSpec, model: MatchingModel, moments: Moments) -> nn.Module:
    """Returns a fresh field: a network, preconditioned, its weights drawn from torch's global generator; or a formula as it is."""
    if issubclass(networks[network["name"]], ExactField):
        return networks.build(network, signature, model)
    field = Preconditioned(networks.build(network, signature), model, moments)
    field.spec = dict(network)
    return field


@dataclass(frozen=True)
class ArtifactConfig:
    """Everything but the weights.

    Args:
        kind: ``teacher`` or ``student``.
        network: piece of the teacher's network.
        signature: of the network.
        model: the teacher's matching model.
        moments: of data and source.
        sampler: piece; how the teacher is sampled by default.
        data: ``name``, ``options``, ``labels``, ``shift``, ``scale``, ``limits``, ``label_shares``.
        seed: of the run.
        student: ``name`` and settings of the student plugin, and ``network`` if it has one of its own; None for a teacher.
        guidance: see ``Teacher``.
        label_dropout: share of the labels that the teacher was not told in training, None if that is not known; at 0 it cannot be guided.
        versions: of what wrote the card.
    """

    kind: str
    network: dict[str, Any]
    signature: NetworkSpec
    model: MatchingModel
    moments: Moments
    sampler: dict[str, Any]
    data: dict[str, Any]
    seed: int
    student: dict[str, Any] | None = None
    versions: dict[str, str] | None = None
    guidance: float = 1.0
    label_dropout: float | None = 0.0

    def to_json(self) -> dict[str, Any]:
        """Returns the card's JSON form."""
        fields = {key: getattr(self, key) for key in ("kind", "network", "sampler", "data", "seed", "student", "guidance", "label_dropout")}
        return {
            "format": 1,
            **fields,
            "signature": asdict(self.signature),
            "model": describe_model(self.model),
            "moments": asdict(self.moments),
            "versions": versions(),
        }

    @classmethod
    def from_json(cls, card: Mapping[str, Any]) -> ArtifactConfig:
        """Returns the card of its JSON form."""
        signature: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["signature"].items()}
        return cls(
            **{key: card[key] for key in ("kind", "network", "sampler", "data", "seed", "student", "versions")},
            **{key: card[key] for key in ("guidance", "label_dropout") if key in card},
            signature=NetworkSpec(**signature),
            model=model_of(card["model"]),
            moments=Moments(**card["moments"]),
        )

    def build(self) -> Teacher | Student:
        """Returns the module that the card describes, with weights still to be loaded.

        Raises:
            CardError: the network was made in Python and has no registered name.
        """
        if self.network.get("name") is None and not (self.student or {}).get("network"):
            raise ArtifactError("the network was made in Python; register it in matchlib.networks so that a card can name it")
        unneeded = self.student is not None and self.student.get("network") is not None  # the teacher's field, by the student
        field = nn.Identity() if unneeded else build_field(self.network, self.signature, self.model, self.moments)
        teacher = Teacher(field, self.model, self.moments, self.guidance)
        return teacher if self.student is None else build_student(self.student, teacher, self.signature)


def build_student(spec: Mapping[str, Any], teacher: Teacher, signature: NetworkSpec) -> Student:
    """Builds a student from ``{"name", its settings, "network" and "objective" (optional)}``.

    A network of its own predicts the data, unless ``objective`` names another row: the teacher's, say, whose weights then mean the same.
    """
    own = None
    if spec.get("network") is not None:
        model = replace(teacher.model, objective=objectives.build(spec.get("objective") or {"name": "data"}))
        own = build_field(spec["network"], replace(signature, heads=len(model.objective.heads)), model, teacher.moments)
    return students.build({key: value for key, value in spec.items() if key not in ("network", "objective")}, teacher, own)


def versions() -> dict[str, str]:
    """Returns the versions that a result depends on."""
    try:
        own = version("matchlib-torch")
    except PackageNotFoundError:
        own = "source"
    return {"matchlib": own, "torch": torch.__version__, "python": platform.python_version()}


def save_artifact(folder: Path, card: ArtifactConfig, module: nn.Module) -> None:
    """Writes weights, then the card: a folder with a card is whole."""
    write_tensors(folder / "model.safetensors", module.state_dict())
    write_json(folder / "card.json", card.to_json())


def save_average(folder: Path, decay: float, module: nn.Module) -> None:
    """Writes further averaged weights of a module beside those of its bundle."""
    write_tensors(folder / f"ema-{decay}.safetensors", module.state_dict())


def load_artifact(folder: Path, ema: float | None = None) -> tuple[ArtifactConfig, Teacher | Student]:
    """Reads a bundle.

    Args:
        ema: decay of the average whose weights to read; None for the bundle's own.

    Raises:
        CardError: a file is missing or damaged, or the weights do not fit the card.
    """
    try:
        card = ArtifactConfig.from_json(read_json(folder / "card.json"))
        module = card.build()
    except ArtifactError:
        raise
    except (KeyError, TypeError, ValueError, MatchlibError) as error:
        raise ArtifactError(f"{folder / 'card.json'} does not describe a model: {error}") from error
    weights = folder / ("model.safetensors" if ema is None else f"ema-{ema}.safetensors")
    if ema is not None and not weights.exists():
        there = ", ".join(sorted(file.stem.removeprefix("ema-") for file in folder.glob("ema-*.safetensors")))
        raise ArtifactError(
            f"{folder} has no average of decay {ema} (there are: {there or 'none'}); trainer.extra_ema_decays asks for some"
        )
    tensors, _ = read_tensors(weights)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ArtifactError(f"the weights in {folder} do not fit its card: {first}") from error
    return card, module


def dataset_of(data: Mapping[str, Any]) -> Dataset:
    """Returns the data set that a card or settings name, in the card's units."""
    dataset = load_dataset(data["name"], data["options"])
    dataset = dataset if data["labels"] else dataset.without_labels()
    dataset = dataset.balanced() if data.get("balanced") else dataset
    return dataset.normalized_as(data["shift"], data["scale"]) if "scale" in data else dataset
